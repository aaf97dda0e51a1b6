"""What a stop, a kill, an interrupt and a change in mid-run must carry over to the resumed run."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpo_lab.cli import jobs
from dpo_lab.cli.commands import main
from dpo_lab.training import sweep as sweeping
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.callbacks import Callback
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.learner import Learner, NonFiniteLoss
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run, open_or_create
from dpo_lab.training.setup import prepare
from dpo_lab.training.sweep import sweep

QUICK = TrainConfig(
    steps=9, batch_pairs=4, limit=36, eval_every=3, eval_pairs=4, kl_samples=4, sample_prompts=2,
    max_new_tokens=4, checkpoint_every=4, learning_rate=1e-3,
)  # fmt: skip
FILES = ("metrics.jsonl", "samples.jsonl")


class Killed(BaseException):
    """Stands for the process's end: nothing in the code may catch it and tidy up."""


class At(Callback):
    """Does something after the record of a step."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def on_step(self, record):
        if record.step == self.step:
            self.act()


def begin(path: Path, config: TrainConfig, *callbacks: Callback, control=None) -> Run:
    job = prepare(config)
    run = open_or_create(Run(path), job)
    for _ in train(job, run=run, control=control, callbacks=callbacks):
        pass
    return run


def same_records(one: Run, other: Run) -> None:
    for name in FILES:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


@pytest.mark.parametrize("lora_rank", [None, 2])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_beta_and_the_peak_that_were_moved_are_those_that_a_resumed_run_goes_on_with(
    tmp_path, schedule, lora_rank
):
    """Moved after step 2; the other run is stopped after step 5, far from any checkpoint due."""
    config = replace(QUICK, schedule=schedule, lora_rank=lora_rank)
    moved = {"beta": 0.5, "learning_rate": 2e-4}
    control = RunControl()
    whole = begin(tmp_path / "a", config, At(2, lambda: control.set(**moved)), control=control)
    first = RunControl()
    stops = At(2, lambda: first.set(**moved)), At(5, first.stop)
    parts = begin(tmp_path / "b", config, *stops, control=first)
    assert parts.summary["state"] == "stopped" and parts.records()[-1].step == 5
    begin(parts.path, config)
    same_records(whole, parts)
    records = parts.records()
    assert [r.beta for r in records] == [0.1] * 3 + [0.5] * 7
    assert records[3]["change/learning_rate"] == 2e-4
    for record in (r for r in records if "eval/loss" in r.values):
        drift = record["eval/drift/chosen"] - record["eval/drift/rejected"]
        assert record["eval/rewards/margins"] == pytest.approx(record.beta * drift, abs=1e-7)
    # No warm-up in nine steps: of the new peak, linear leaves (9 - n + 1) / 9 at step n.
    if schedule == "linear":
        rates = [2e-4 * (10 - step) / 9 for step in range(3, 10)]
        assert [r.learning_rate for r in records[3:]] == pytest.approx(rates, rel=1e-9)


def test_a_change_that_no_step_has_seen_yet_waits_in_the_checkpoint(tmp_path):
    """Set and stopped at one moment: the resumed run takes it up and marks it."""
    control = RunControl()
    move = {"beta": 0.7, "learning_rate": 3e-4}
    whole = begin(tmp_path / "a", QUICK, At(5, lambda: control.set(**move)), control=control)
    other = RunControl()

    def last_word():
        other.set(**move)
        other.stop()

    parts = begin(tmp_path / "b", QUICK, At(5, last_word), control=other)
    begin(parts.path, QUICK)
    assert parts.records()[6]["change/learning_rate"] == 3e-4
    same_records(whole, parts)


def half_a_step(monkeypatch, at: int, error: BaseException) -> None:
    """The optimiser changes half of the weights in one of its steps, and is cut off there."""
    steps, step = [], torch.optim.AdamW.step

    def cut(self, *arguments):
        steps.append(1)
        if len(steps) != at:
            return step(self, *arguments)
        with torch.no_grad():
            parameters = self.param_groups[0]["params"]
            for parameter in parameters[: len(parameters) // 2]:
                parameter.add_(1e-2)
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", cut)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Killed(), ValueError("of a callback")])
@pytest.mark.parametrize("at", [3, 7])
def test_half_a_step_is_in_no_checkpoint(tmp_path, monkeypatch, at, error):
    whole = begin(tmp_path / "a", QUICK)
    with monkeypatch.context() as patch:
        half_a_step(patch, at, error)
        with pytest.raises(type(error)):
            begin(tmp_path / "b", QUICK)
    parts = Run(tmp_path / "b")
    assert [r.step for r in parts.records()] == list(range(at))
    kept = parts.checkpoint and torch.load(parts.checkpoint / "trainer.pt", weights_only=True)
    assert (kept and kept["step"]) == (4 if at == 7 else None)
    begin(parts.path, QUICK)
    same_records(whole, parts)
    for name in ("model.safetensors",):
        assert (parts.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


@pytest.mark.parametrize("where", ["accumulate", "_check_finite", "check_weights"])
def test_an_interrupt_anywhere_in_a_step_changes_no_record(tmp_path, monkeypatch, where):
    whole, own, calls = begin(tmp_path / "a", QUICK), getattr(Learner, where), []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path / "b", QUICK)
    parts = begin(tmp_path / "b", QUICK)
    same_records(whole, parts)


def test_a_run_stopped_before_its_first_step_has_one_record_of_step_0(tmp_path):
    whole = begin(tmp_path / "a", QUICK)
    control = RunControl()
    parts = begin(tmp_path / "b", QUICK, At(0, control.stop), control=control)
    assert [r.step for r in parts.records()] == [0] and parts.checkpoint
    again = RunControl()
    again.stop()
    begin(parts.path, QUICK, control=again)
    live = BackgroundRun(QUICK, folder=parts.path).start().wait(60)
    same_records(whole, parts)
    assert [r.step for r in live.records] == [r.step for r in parts.records()] == list(range(10))
    assert [r.as_dict() for r in live.records] == [r.as_dict() for r in parts.records()]


def test_what_was_set_before_the_first_step_does_not_rewrite_step_0(tmp_path):
    """The record of step 0 was measured at the beta of that moment."""
    control = RunControl()
    whole = begin(tmp_path / "a", QUICK, At(0, lambda: control.set(beta=0.9)), control=control)
    other = RunControl()
    stop = At(0, lambda: (other.set(beta=0.9), other.stop()))
    parts = begin(tmp_path / "b", QUICK, stop, control=other)
    begin(parts.path, QUICK)
    same_records(whole, parts)
    assert [r.beta for r in parts.records()] == [0.1] + [0.9] * 9


def test_live_records_are_those_of_the_folder_at_every_stop(tmp_path):
    for stop in (0, 1, 4, 6):
        run = BackgroundRun(QUICK, folder=tmp_path / "run")
        keep = run.on_step
        run.on_step = lambda r, run=run, keep=keep, stop=stop: (
            keep(r),
            r.step == stop and run.stop(),
        )
        run.start().wait(60)
        disk = Run(tmp_path / "run")
        assert [r.as_dict() for r in run.records] == [r.as_dict() for r in disk.records()]
        assert run.records[-1].step == stop
        assert [s.step for s in run.samples] == [s.step for s in disk.last_samples()]


def test_a_kill_between_training_and_its_outcome_leaves_the_outcome_to_be_measured(
    tmp_path, monkeypatch, capsys
):
    def train_in(name: str) -> Run:
        main(
            f"train --resume --out {tmp_path / name} --steps 4 --batch-pairs 4 --limit 16 "
            "--eval-every 0 --eval-pairs 0".split()
        )
        return Run(tmp_path / name)

    def killed(*arguments):
        raise Killed

    whole = train_in("whole")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "measure_outcome", killed)
        with pytest.raises(Killed):
            train_in("killed")
    run = Run(tmp_path / "killed")
    assert run.summary["state"] == "done" and "outcome" not in run.summary
    train_in("killed")
    assert run.summary["outcome"] == whole.summary["outcome"]
    assert run.summary["outcome"]["after"]["n"] == 500
    before = (run.path / "metrics.jsonl").read_bytes()
    train_in("killed")
    assert "this run is done" in capsys.readouterr().out
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_a_sweep_killed_before_an_outcome_measures_it_when_begun_again(tmp_path, monkeypatch):
    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "measure_outcome", killed)
        with pytest.raises(Killed):
            sweeping.run_one(QUICK.resolved(), tmp_path / "one", threading.Event())
    assert Run(tmp_path / "one").summary["state"] == "done"
    (row,) = sweep({"one": QUICK}, tmp_path, workers=1)
    assert row["score"] is not None and Run(tmp_path / "one").summary["swept"]


def poisoned(monkeypatch, at: int, value: float) -> None:
    """One weight is no number after a step whose loss and gradient were."""
    steps, step = [], torch.optim.AdamW.step

    def poison(self, *arguments):
        step(self, *arguments)
        steps.append(1)
        if len(steps) == at:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[-1] = value

    monkeypatch.setattr(torch.optim.AdamW, "step", poison)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [8, 9])
def test_broken_weights_replace_no_checkpoint_and_end_no_run_as_done(
    tmp_path, monkeypatch, at, value
):
    """Step 8 is where a checkpoint is due, step 9 the last; the one of step 4 and 8 stays."""
    config = replace(QUICK, eval_every=0)
    whole = begin(tmp_path / "a", config)
    with monkeypatch.context() as patch:
        poisoned(patch, at, value)
        with pytest.raises(NonFiniteLoss, match=f"step {at}: after it 1 weights are no finite"):
            begin(tmp_path / "b", config)
    run = Run(tmp_path / "b")
    assert run.summary["state"] == "failed" and "no finite numbers" in run.summary["error"]
    kept = torch.load(run.checkpoint / "trainer.pt", weights_only=True)
    assert kept["step"] == 4 * (at - 1 >= 4) + 4 * (at - 1 >= 8)
    begin(run.path, config)
    records = [(r.path / "metrics.jsonl").read_bytes() for r in (whole, run)]
    assert records[0] == records[1]


def test_broken_weights_are_found_without_a_folder_and_at_a_stop(tmp_path, monkeypatch):
    config = replace(QUICK, eval_every=0)
    with monkeypatch.context() as patch:
        poisoned(patch, 9, float("nan"))
        with pytest.raises(NonFiniteLoss, match="step 9"):
            list(train(prepare(config)))
    with monkeypatch.context() as patch:
        poisoned(patch, 6, float("nan"))
        control = RunControl()
        with pytest.raises(NonFiniteLoss, match="step 6"):
            begin(tmp_path / "b", config, At(6, control.stop), control=control)
    run = Run(tmp_path / "b")
    assert run.summary["state"] == "failed"
    assert torch.load(run.checkpoint / "trainer.pt", weights_only=True)["step"] == 4


def test_weights_that_are_numbers_but_give_no_gradient_replace_no_checkpoint(tmp_path):
    """A learning rate of 1e30: finite weights after one step, and no step more from them."""
    config = replace(QUICK, eval_every=0, checkpoint_every=1, schedule="constant")
    control = RunControl()
    move = At(3, lambda: control.set(learning_rate=1e30))
    with pytest.raises(NonFiniteLoss, match="step 4: after it the gradient is no finite"):
        begin(tmp_path / "b", config, move, control=control)
    run = Run(tmp_path / "b")
    assert torch.load(run.checkpoint / "trainer.pt", weights_only=True)["step"] == 3
    assert json.loads((run.path / "summary.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("most", [0.05, 0.5, 1e6])
def test_gradients_are_scaled_down_to_the_norm_that_was_asked_for(most):
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    job = prepare(replace(QUICK, steps=1, eval_every=0, beta=1.0, max_grad_norm=most))
    learner = Learner(job)
    record = learner.take_step()
    moments = [state["exp_avg"].flatten() for state in learner.optimizer.state.values()]
    given = 10 * torch.cat(moments).norm().item()
    assert record["grad_norm"] > 1, "more than what is asked for, or nothing would be clipped"
    assert given == pytest.approx(min(most, record["grad_norm"]), rel=1e-4)
