"""One driver for the command line, the sweep, the workbench and the analyses that train."""

import json
from dataclasses import replace

import pytest
import torch

from dpo_lab.training.callbacks import Callback
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.loop import train
from dpo_lab.training.outcome import measure_outcome
from dpo_lab.training.run_job import StoppedBeforeTraining, run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare

QUICK = TrainConfig(
    steps=4, batch_pairs=4, limit=40, eval_every=2, eval_pairs=8, kl_samples=8, checkpoint_every=2
)


class Diary(Callback):
    """What a callback was called with, in order."""

    def __init__(self):
        self.told = []

    def on_prepared(self, job):
        self.told.append("prepared")

    def on_start(self, job, first_step, total_steps):
        self.told.append(("start", first_step, total_steps))

    def on_wait(self, what, done, total):
        if self.told[-1:] != [what]:
            self.told.append(what)

    def on_step(self, record):
        self.told.append(record.step)

    def on_end(self, state, error):
        self.told.append(state)


def test_it_is_what_one_would_write_by_hand(tmp_path):
    ended, diary = run_job(QUICK, tmp_path / "run", callbacks=[diary := Diary()]), diary
    job = prepare(QUICK)
    records = list(train(job))
    run = Run(tmp_path / "run")
    assert [r.as_dict() for r in run.records()] == [r.as_dict() for r in records]
    for own, other in zip(
        ended.job.policy.model.parameters(), job.policy.model.parameters(), strict=True
    ):
        assert torch.equal(own, other)
    expected = measure_outcome(job)
    assert ended.state == "done" and ended.outcome == expected and run.finished
    assert run.summary["outcome"] == json.loads(json.dumps(expected.as_dict()))
    evaluation = ["held-out responses", "answers for KL"]
    assert diary.told == [
        "reference", "prepared", ("start", 0, 4), *evaluation, 0, 1, *evaluation, 2, 3, *evaluation,
        4, "done", "answers of the reference", "answers of the policy",
    ]  # fmt: skip


class StopWhile(Callback):
    """Stops a run while something is waited for."""

    def __init__(self, control, what):
        self.control, self.what = control, what

    def on_wait(self, what, done, total):
        if what == self.what:
            self.control.stop()


@pytest.mark.parametrize("folder", [None, "run"])
def test_a_run_stopped_while_it_is_prepared_leaves_no_folder(tmp_path, folder):
    control = RunControl()
    with pytest.raises(StoppedBeforeTraining):
        run_job(
            QUICK,
            folder and tmp_path / folder,
            control=control,
            callbacks=[StopWhile(control, "reference")],
        )
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_is_measured_once_it_is_done(tmp_path):
    control = RunControl()
    waits = [StopWhile(control, "answers for KL")]
    ended = run_job(QUICK, tmp_path / "run", control=control, callbacks=waits)
    run = Run(tmp_path / "run")
    assert ended.state == "stopped" and ended.outcome is None
    assert "outcome" not in run.summary and not run.finished
    ended = run_job(QUICK, run.path, changes={"beta": 0.7})
    assert ended.state == "done" and run.finished
    assert [record.beta for record in run.records()] == [0.1, 0.7, 0.7, 0.7, 0.7]
    assert ended.job.live == run.live == LiveSettings(0.7, 1e-3)
    with pytest.raises(ValueError, match="no step is left for beta to change"):
        run_job(QUICK, run.path, changes={"beta": 0.3})
    with pytest.raises(FileExistsError, match="exists already"):
        run_job(QUICK, run.path, resume=False)


def test_without_a_measurement_nothing_is_said_of_an_outcome(tmp_path):
    ended = run_job(QUICK, tmp_path / "run", measure=False)
    assert ended.outcome is None and "outcome" not in Run(tmp_path / "run").summary


def test_the_reference_is_kept_where_something_will_ask_for_it():
    quiet = replace(QUICK, eval_every=0, eval_pairs=0, kl_samples=0, held_out=0.0)
    rows = [{"prompt": "the acting felt", "chosen": "superb", "rejected": "dull"}] * 4
    before = prepare(quiet, data=rows).policy.model.lm_head.weight.clone()
    for options, kept in (
        ({}, False),
        ({"keep_reference": True}, True),
        ({"reward_fn": len}, True),
    ):
        job = run_job(quiet, data=rows, measure=False, **options).job
        if not kept:
            with pytest.raises(RuntimeError, match="keep_reference=True"), job.reference.active():
                pass
            continue
        with job.reference.active() as reference:
            assert torch.equal(reference.language_model.model.lm_head.weight, before)
        assert not torch.equal(job.policy.model.lm_head.weight, before)


def test_live_settings_are_those_of_the_last_record():
    config = replace(QUICK, learning_rate=None)
    assert (
        LiveSettings.after(config, History()) == LiveSettings.of(config) == LiveSettings(0.1, None)
    )
    control, records = RunControl(), History()
    for record in train(prepare(QUICK), control=control):
        records.append(record)
        if record.step == 1:
            control.set(beta=0.4)
        if record.step == 2:
            control.set(learning_rate=2e-4)
    live = LiveSettings.after(config, records)
    assert live == LiveSettings(0.4, 2e-4)
    assert live.changed_from(LiveSettings(0.4, None)) == {"learning_rate": 2e-4}
