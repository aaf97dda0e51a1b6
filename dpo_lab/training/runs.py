"""A run is a folder with its settings, its records, and a checkpoint that survives a kill.

config.json       the configuration
environment.json  versions, origin and hash of the weights, rows used and skipped, hashes of
                  tokenizer and chat template, and whether the template was used
metrics.jsonl     one line per step, flushed; on the CPU byte-identical whenever the run is repeated
                  with the same number of threads and the same reference values (the lab's cache
                  keeps the values that were computed first)
timing.jsonl      seconds, rates and memory of each step, which are never the same twice
samples.jsonl     answers to held-out prompts
checkpoint/       model or adapter, tokenizer (`from_pretrained` loads it), trainer.pt, optimizer/
                  if the optimiser's state is in parts, and checksums.json, for these files, the
                  settings and every line written so far
summary.json      how the run ended; missing while it runs and after a kill
requests.jsonl    what other processes asked of the running run, and applied.jsonl: from which step
alive.json        a sign of life, only while it runs
export/           models exported from it, if no other place was given
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dpo_lab.training.checkpoints import (
    check_folder,
    find_checkpoint,
    noted_at_checkpoint,
    replace_checkpoint,
)
from dpo_lab.training.files import (
    read_json,
    write_json,
    write_text,
)
from dpo_lab.training.heartbeat import owner_elsewhere
from dpo_lab.training.live_settings import LIVE, LiveSettings
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.run_lines import LINE_FILES, check_lines, check_steps, cut_back, read_rows

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig

BEGINNING = {".lock", "environment.json.next", "environment.json", "config.json.next"}
"""Files that a kill during `Run.create` can leave; a new run overwrites them."""


class FolderTaken(FileExistsError):
    """Another process trains in the folder."""


class Run:
    """A run's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock")

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig, environment: Mapping[str, Any]) -> Run:
        """Start a run in a folder that is new, empty, or left by a kill during this same call.

        Raises:
            FileExistsError: If other files are in it, or another process starts a run there.
        """
        run = cls(path)
        run.path.mkdir(parents=True, exist_ok=True)
        run.lock()
        try:
            run.check_free()
            write_json(run.path / "environment.json", environment)
            # Last, since this file makes the folder a run.
            write_json(run.path / "config.json", config.as_dict())
        finally:
            run.unlock()
        return run

    def check_free(self) -> None:
        """Raise if no new run can start in the folder.

        Raises:
            FileExistsError: If there is a run in it, or other files.
        """
        if self.exists:
            raise FileExistsError(
                f"{self.path}: exists already. Give another folder, or --resume to go on with the "
                "run in it."
            )
        names = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        if other := names - BEGINNING:
            raise FileExistsError(
                f"{self.path}: holds no run but other files, such as {min(other)}. Give a folder "
                "that is new or empty."
            )

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            FileNotFoundError: If the folder is not a run.
        """
        run = cls(path)
        if not run.exists:
            raise FileNotFoundError(
                f"{path}: no run there (no config.json). 'dpo-lab runs list' shows the runs."
            )
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.json").exists()

    @property
    def config(self) -> TrainConfig:
        """The configuration with which it started."""
        from dpo_lab.training.config import TrainConfig

        settings = self.settings
        try:
            return TrainConfig.from_dict(settings)
        except ValueError as error:
            raise ValueError(f"{self.path / 'config.json'}: {error}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """The plain values in its `config.json`, readable without torch."""
        return read_json(self.path / "config.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, origins, fingerprints and row counts."""
        return read_json(self.path / "environment.json")

    @property
    def summary(self) -> dict[str, Any]:
        """How it ended; `{"state": "unfinished"}` while it runs and after a kill."""
        path = self.path / "summary.json"
        summary = read_json(path) if path.exists() else {"state": "unfinished"}
        if not isinstance(summary.get("state"), str):
            raise ValueError(f"{path}: has no state. Remove it; --resume writes it again.")
        return summary

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: training is done and the outcome measured."""
        return self.exists and self.summary["state"] == "done" and "outcome" in self.summary

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate with which a resumed run continues."""
        settings, noted = self.settings, noted_at_checkpoint(self.path) or {}
        return LiveSettings(*(noted.get(name, settings.get(name)) for name in LIVE))

    def check_changes(self, changes: Collection[str]) -> None:
        """Raise for new values of live settings once every step is done.

        Args:
            changes: Names of the settings.

        Raises:
            ValueError: If no step is left in which they would take effect.
        """
        if not changes:
            return
        noted, total = noted_at_checkpoint(self.path) or {}, self.environment.get("total_steps")
        if self.summary["state"] == "done" or (total and noted.get("step") == total):
            raise ValueError(
                f"{self.path}: this run is done, so no step is left for "
                f"{', '.join(sorted(changes))} to change. Begin another run."
            )

    def records(self) -> list[StepRecord]:
        """The records of all steps so far; a last line that a kill cut short is left out.

        Raises:
            ValueError: If lines were changed or are missing.
        """
        path = self.path / "metrics.jsonl"
        timings = {line.pop("step"): line for line in self._rows("timing.jsonl")}
        rows = self._rows(path.name)
        check_steps(path, rows)
        try:
            return [StepRecord.from_dict(line, timings.get(line["step"])) for line in rows]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: a line is not the record of a step ({error}).") from None

    def samples(self) -> list[SampleRecord]:
        """All answers so far.

        Raises:
            ValueError: If lines were changed or are missing.
        """
        try:
            return [SampleRecord(**line) for line in self._rows("samples.jsonl")]
        except TypeError as error:
            path = self.path / "samples.jsonl"
            raise ValueError(f"{path}: a line is not a sample record ({error}).") from None

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of a file; those up to the checkpoint are compared with its checksums."""
        noted = noted_at_checkpoint(self.path)  # read before the lines: both grow during a run
        if noted:
            check_lines(self.path / name, noted["lines"].get(name, ""))
        return read_rows(self.path / name)

    def check(self) -> None:
        """Raise if the folder was changed since its checkpoint was written.

        Raises:
            ValueError: If settings, weights, optimiser state or a record line were changed.
        """
        if not check_folder(self.path):
            self.records(), self.samples()  # the checks that are possible without checksums

    def last_samples(self) -> list[SampleRecord]:
        """The answers of the last evaluation."""
        samples = self.samples()
        return [sample for sample in samples if sample.step == samples[-1].step]

    def lock(self) -> None:
        """Lock the folder for this process; the lock ends with the process, even after a kill.

        Locks do not reach other machines on every shared folder, but signs of life do.

        Raises:
            FolderTaken: If another process is writing to it, here or on another machine.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FolderTaken(
                f"{self.path}: another process is training in this folder. Wait for it, stop it, "
                "or give another folder."
            ) from None
        if owner := owner_elsewhere(self.path):
            self._lock.release()
            raise FolderTaken(
                f"{self.path}: a process on {owner} is training in this folder. Wait for it, stop "
                "it ('dpo-lab follow' with --stop), or give another folder."
            )

    def unlock(self) -> None:
        """Release the folder."""
        self._lock.release()

    def rewind(self, step: int) -> None:
        """Remove all records after a step (-1: all of them), and the summary.

        A run that was done at this step, and from which nothing is removed, stays done.
        """
        noted, whole = noted_at_checkpoint(self.path) if step >= 0 else None, True
        for path in (self.path / name for name in LINE_FILES):
            if not path.exists():
                continue
            if noted and noted.get("step") == step:
                text = cut_back(path, noted["lines"][path.name])
            else:
                kept = read_rows(path, step) if step >= 0 else []
                text = "".join(json.dumps(line) + "\n" for line in kept)
            if text.encode() != path.read_bytes():
                whole = False
                write_text(path, text)
        if not (whole and self._done_at(step)):
            (self.path / "summary.json").unlink(missing_ok=True)

    def _done_at(self, step: int) -> bool:
        try:
            summary = self.summary
        except ValueError:
            return False
        return summary["state"] == "done" and summary.get("step") == step

    def append(self, record: StepRecord) -> None:
        """Add a step; whoever reads its record finds its timing there already."""
        if record.timing:
            self._append("timing.jsonl", [{"step": record.step, **record.timing}])
        self._append("metrics.jsonl", [record.as_dict()])

    def append_samples(self, samples: Sequence[SampleRecord]) -> None:
        """Add answers."""
        self._append("samples.jsonl", [sample.as_dict() for sample in samples])

    def _append(self, name: str, lines: Iterable[Mapping]) -> None:
        path = self.path / name
        try:
            with path.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise OSError(
                f"{path}: cannot be written ({error.strerror}). Make room; --resume goes on from "
                "the last checkpoint."
            ) from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, or add to it."""
        old = self.summary if (self.path / "summary.json").exists() else {}
        write_json(self.path / "summary.json", {**old, **summary})

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if any; completes an interrupted replacement."""
        return find_checkpoint(self.path)

    def save_checkpoint(self, write: Callable[[Path], None], **options: Any) -> None:
        """Replace the checkpoint; one complete checkpoint is on disk at all times.

        Args:
            write: Writes the files of a checkpoint into the folder that it gets.
            **options: Values to store with its checksums: `step`, and the live settings; and
                `from_first`, see `replace_checkpoint`.
        """
        replace_checkpoint(self.path, write, **options)
