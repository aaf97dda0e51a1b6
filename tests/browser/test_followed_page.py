"""A run of two processes in a terminal, followed and steered from the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from page import browser_page
from real_processes import ranks, until

pytestmark = pytest.mark.slow

SOURCE = "from dpo_lab import Workbench\nbench = Workbench(); bench.follow({folder!r}); bench"
TRAIN = ["--processes", "2", "--steps", "100000", "--eval-every", "200", "--batch-pairs", "8"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_of_another_terminal_is_steered(lab: str, lab_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    terminal = subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", "train", *TRAIN, "--out", str(folder)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until((folder / "alive.json").exists, "the run never begins")
        cell = nbformat.v4.new_code_cell(SOURCE.format(folder=str(folder)))
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, lab_folder / "follow.ipynb")
        with browser_page(lab) as page:
            tab = page.page
            page.open("follow.ipynb")
            page.run_command("notebook:run-all-cells")
            page.wait_for_status("training")
            page.wait_for_points("loss", more_than=20)

            handle = tab.locator(".dpo-beta .noUi-handle")
            handle.focus()
            handle.press("ArrowRight")

            def changed() -> float | None:  # the page sends what was typed a moment later
                beta = json.loads(page.execute("print(bench.state.config.beta)"))
                return beta if beta != 0.1 else None

            asked = until(changed, "the key never reaches the kernel")
            page.wait_for_status(f"beta {asked:.3g}")
            (answer,) = lines(folder / "applied.jsonl")
            (request,) = lines(folder / "requests.jsonl")
            assert request["beta"] == asked and answer["id"] == request["id"]
            betas = {line["step"]: line["beta"] for line in lines(folder / "metrics.jsonl")}
            assert betas[answer["step"]] == asked and betas[answer["step"] - 1] == 0.1

            tab.click("button.dpo-pause")
            page.wait_for_status("paused")
            step = int(re.search(r"step (\d+)", page.status())[1])
            folder_of_pictures = os.environ.get("DPO_LAB_PICTURES")
            if folder_of_pictures:
                tab.screenshot(path=Path(folder_of_pictures) / "followed.png")
            assert len(lines(folder / "metrics.jsonl")) == step + 1, "step 0 has a record too"
            tab.click("button.dpo-pause")
            page.wait_for_status("training")

            for pid in (terminal.pid, *ranks(terminal.pid)):
                os.kill(pid, signal.SIGKILL)
            page.wait_for_status("no sign of life", timeout=5_000)
            assert page.problems == []

            # Gone on with elsewhere, followed again, and stopped from here.
            terminal = subprocess.Popen(
                [sys.executable, "-m", "dpo_lab", "train", "--resume", "--out", str(folder)],
                env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            known = len(lines(folder / "applied.jsonl"))
            page.execute(f"""
from dpo_lab.training.followed import FollowedRun
import time
while not FollowedRun({str(folder)!r}).alive: time.sleep(0.1)
bench.follow({str(folder)!r})
""")
            page.wait_for_status("training")
            tab.click("button.dpo-stop")
            page.wait_for_status("stopped")
            assert terminal.wait() == 0
            assert len(lines(folder / "applied.jsonl")) == known + 1
            assert json.loads((folder / "summary.json").read_text())["state"] == "stopped"
    finally:
        terminal.terminate()  # its processes end with it, and with a checkpoint
