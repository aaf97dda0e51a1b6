"""A training run in a background thread, watched and controlled from other threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.preferences import Preferences
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.training.callbacks import Callback
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.history import History
from dpo_lab.training.job import Job
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.run_folders import give_back
from dpo_lab.training.run_job import StoppedBeforeTraining, run_job
from dpo_lab.training.runs import Run


class BackgroundRun(OngoingRun, Callback):
    """One run, prepared and trained in its own thread.

    Args:
        config: The settings of the run.
        model: A model already loaded, instead of `config.model`; a copy of it is trained.
        data: Pairs or rows in memory, instead of `config.data`.
        reward_fn: Ground-truth reward of `(prompt, response)`, instead of the data set's own.
        folder: The run's folder. A run that is already there is resumed; its settings must match,
            except for the live ones. None keeps nothing.
        on_prepared: Called in the run's thread with the job, while policy and reference are equal.
        report_to: Trackers that get the run's numbers, see `tracker_callbacks`.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: AnyModel | None = None,
        data: Preferences | Iterable[Mapping] | None = None,
        reward_fn: RewardFn | None = None,
        folder: Path | None = None,
        on_prepared: Callable[[Job], None] | None = None,
        report_to: Sequence[str] = (),
    ):
        super().__init__(folder, RunControl())
        self.config = config
        self._on_prepared, self._report_to = on_prepared, report_to
        kept = Run(folder) if folder and Run(folder).exists else None
        self._resume = kept is not None
        if kept:
            self.records, self.samples = History(kept.records()), kept.last_samples()
        model = None if model is None else as_language_model(model)
        self._inputs = {"model": model, "data": data, "reward_fn": reward_fn}

    @property
    def state(self) -> str:
        """One of preparing, training, paused, stopping, done, stopped, failed."""
        if self._end:
            return self._end
        if self.control.stopped:
            return "stopping"
        if self.job is None:
            return "preparing"
        return "paused" if self.control.resting else "training"

    def start(self) -> BackgroundRun:
        """Start the thread; returns at once."""
        self._thread.start()
        return self

    def _work(self) -> None:
        state = "failed"
        try:
            state = self._run()
        except StoppedBeforeTraining:
            state = "stopped"
        except BaseException as error:  # displayed by followers, raised by wait()
            self.error = error
        finally:
            if self.folder:
                give_back(self.folder)
            self._has_ended(state)

    def _run(self) -> str:
        callbacks: list[Callback] = [self]
        if self._report_to:
            from dpo_lab.training.report_to import ReportTo

            callbacks.append(ReportTo(self._report_to, self.folder or Path(".")))
        ended = run_job(
            self.config,
            self.folder,
            resume=self._resume,
            **self._inputs | {"model": deepcopy(self._inputs["model"])},
            measure=False,
            control=self.control,
            callbacks=callbacks,
        )
        return ended.state

    def on_prepared(self, job: Job) -> None:
        """Keep the job, and pass it to the caller's `on_prepared`."""
        self.job = job
        if self._on_prepared:
            self._on_prepared(job)

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Note the number of steps; reload the records of a resumed run from its folder."""
        self.total_steps = total_steps
        kept = Run(self.folder) if self.folder else None
        self.records = History(kept.records() if kept else ())
        self.samples = kept.last_samples() if kept else []
        self.doing = None
        self._tell()

    def on_wait(self, what: str, done: int, total: int) -> None:
        """Note the current activity."""
        self.doing = (what, done, total)

    def on_step(self, record: StepRecord) -> None:
        """Keep the record."""
        self.doing = None
        self.records.append(record)
        self._tell()

    def on_sample(self, samples: Sequence[SampleRecord]) -> None:
        """Keep the newest answers."""
        self.samples = list(samples)
