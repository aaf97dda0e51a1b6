"""A run in processes of its own, started from here and followed: it outlives this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from dpo_lab.models.model_settings import Strategy
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.followed import LOOKS, FollowedRun, RemoteControl
from dpo_lab.training.heartbeat import ALIVE
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.run_folders import give_back
from dpo_lab.training.runs import Run


class LaunchedRun(FollowedRun):
    """One run, trained by `dpo-lab train --processes` and followed by a thread of this process.

    If this process ends, the run goes on; `FollowedRun` finds it again.

    Args:
        config: The settings of the run; model and data by name.
        folder: The run's folder: new, or of a run that is resumed.
        processes: Number of processes that train.
        strategy: What they divide, see `prepare`.
        report_to: Trackers that get the run's numbers, see `tracker_callbacks`.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        processes: int,
        strategy: Strategy = "ddp",
        report_to: Sequence[str] = (),
    ):
        OngoingRun.__init__(self, folder, RemoteControl(folder))
        self.config = config
        self.processes = processes
        self.strategy, self.report_to = strategy, report_to
        self._alive = None
        self._left = threading.Event()
        self._count = processes
        self.control.hold()
        self._process: subprocess.Popen | None = None
        self._resume = Run(folder).exists
        if self._resume:
            self._open()

    @property
    def state(self) -> str:
        """As of a followed run, or preparing."""
        if self._end is None and self._alive is None and not self.control.stopped:
            return "preparing"
        return super().state

    @property
    def live(self) -> LiveSettings:
        """As of a followed run; before it has begun, those of its settings."""
        return super().live if Run(self.folder).exists else LiveSettings.of(self.config)

    def end(self) -> None:
        """Stop the run and wait for its end, without raising its error."""
        OngoingRun.end(self)

    def stop(self) -> None:
        """End the run after the step in progress; before the first one, at once."""
        if self._alive is None and self._process is not None:
            self._process.terminate()
        self.control.stop()

    def how_it_ended(self) -> str | None:
        """As of a followed run; of a failed one only when its launcher has written why."""
        ended = super().how_it_ended()
        return None if ended == "failed" and self._process.poll() is None else ended

    def _work(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="dpo-lab-") as place:
                said = Path(place) / "said"
                self._process = self._launched(Path(place) / "config.json", said)
                while not (self.folder / ALIVE).exists() and self._process.poll() is None:
                    if self.control.stopped:
                        self._process.terminate()
                    self._ended.wait(LOOKS)
                if not (self.folder / ALIVE).exists() and not Run(self.folder).exists:
                    self._has_failed_early(said)
                    return
                self._open()
                self.control.let_go()
                super()._work()
        except BaseException as error:
            self.error = error
            self._has_ended("failed")

    def _launched(self, file: Path, said: Path) -> subprocess.Popen:
        """Start the processes.

        Args:
            file: Where to write the settings.
            said: Where they write their messages.
        """
        words = ["--out", str(self.folder), "--processes", str(self._count)]
        words += ["--strategy", self.strategy]
        words += ["--report-to", *self.report_to] if self.report_to else []
        if self._resume:
            words.append("--resume")
        else:
            file.write_text(json.dumps(self.config.as_dict()))
            words += ["--config", str(file)]
        if self.config.trust_remote_code:
            words.append("--trust-remote-code")
        with said.open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "dpo_lab", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
                start_new_session=True,  # an interrupt of the kernel is none of theirs
            )

    def _has_failed_early(self, said: Path) -> None:
        give_back(self.folder)
        if self.control.stopped:
            self._has_ended("stopped")
            return
        lines = said.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "error: " in line] or lines[-1:]
        why = errors[-1].partition("error: ")[2] or errors[-1] if errors else "no message"
        self.error = RuntimeError(why)
        self._has_ended("failed")
