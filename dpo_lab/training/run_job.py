"""`run_job`: one run from its settings to its outcome: prepare, start or resume, train, measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.preferences import Preferences
from dpo_lab.models.builtin import builtin_model
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.models.model_settings import Strategy
from dpo_lab.models.processes import join_processes
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.callbacks import Callback, State
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.job import Job
from dpo_lab.training.loop import train
from dpo_lab.training.outcome import Outcome, measure_outcome
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create


class StoppedBeforeTraining(Exception):
    """The run was stopped while it was prepared; its folder is unchanged."""


@dataclass(frozen=True)
class FinishedJob:
    """A job whose training has ended.

    Attributes:
        job: The job.
        state: `done` if all steps are done, else `stopped`.
        outcome: Scores before and after training, if measured and there is a ground truth.
    """

    job: Job
    state: State
    outcome: Outcome | None = None


class _End(Callback):
    """Remembers how training ended."""

    state: State = "failed"

    def on_end(self, state: State, error: BaseException | None) -> None:
        self.state = state


def run_job(
    config: TrainConfig,
    folder: str | Path | None = None,
    *,
    resume: bool = True,
    changes: Mapping[str, float] | None = None,
    model: AnyModel | None = None,
    data: Preferences | Iterable[Mapping] | None = None,
    reward_fn: RewardFn | None = None,
    training_reward: RewardFn | None = None,
    keep_reference: bool | None = None,
    cache: ReferenceCache | None = None,
    measure: bool = True,
    strategy: Strategy = "ddp",
    control: RunControl | None = None,
    callbacks: Sequence[Callback] = (),
) -> FinishedJob:
    """Prepare a job, train it to the end, and measure the outcome.

    The command line, sweeps, the workbench and the analyses that train all use this function. If a
    launcher such as torchrun has started several processes, each calls it and they share the work.

    Args:
        config: The settings of the run.
        folder: The run's folder; None keeps nothing.
        resume: Whether to resume a run that is already in the folder.
        changes: New beta or peak learning rate for the remaining steps, by name.
        model: As for `prepare`.
        data: As for `prepare`.
        reward_fn: As for `prepare`.
        training_reward: As for `prepare`.
        keep_reference: As for `prepare`.
        cache: As for `prepare`.
        measure: Whether to score answers of policy and reference at the end; the run's summary
            then has an `outcome`, which is null without a ground truth.
        strategy: As for `prepare`.
        control: To pause, stop, and change settings from another thread.
        callbacks: Called in this thread.

    Raises:
        FileExistsError: If the folder has other files, or a run while `resume` is false.
        StoppedBeforeTraining: If the control was stopped while the job was prepared.
        ValueError: As in `prepare`, `open_or_create` and `train`.
    """
    control, changes, processes = control or RunControl(), changes or {}, join_processes()
    run = None if folder is None else Run(folder)

    def check(run: Run) -> None:
        if resume and run.exists:
            run.check_changes(changes)
        else:
            run.check_free()

    def wait(what: str, done: int, total: int) -> None:
        for callback in callbacks:
            callback.on_wait(what, done, total)

    def wait_or_stop(what: str, done: int, total: int) -> None:
        if control.stopped:
            raise StoppedBeforeTraining
        wait(what, done, total)

    def bring_model() -> None:
        builtin_model(config.model, report=lambda words: wait_or_stop(words, 0, 0))

    processes.from_first(lambda: run and check(run))
    processes.from_first(bring_model)
    with processes.naming_the_lost():
        job = prepare(
            config,
            model=model,
            data=data,
            reward_fn=reward_fn,
            training_reward=training_reward,
            keep_reference=keep_reference,
            cache=cache,
            progress=wait_or_stop,
            strategy=strategy,
        )
    for callback in callbacks:
        callback.on_prepared(job)
    if control.stopped:
        raise StoppedBeforeTraining
    processes.from_first(lambda: run and open_or_create(run, job, resume=resume) and None)
    control.set(**changes)
    end, outcome = _End(), None
    for _ in train(job, run=run, control=control, callbacks=[*callbacks, end]):
        pass
    if measure and end.state == "done":
        with processes.naming_the_lost():
            outcome = measure_outcome(job, wait)
        if run is not None and processes.first:
            run.finish({"outcome": outcome and outcome.as_dict()})
    return FinishedJob(job, end.state, outcome)
