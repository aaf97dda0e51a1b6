"""What a stop, a kill, an interrupt and a change in mid-run must carry over to the resumed run."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kills import Killed, killed

from dpo_lab.cli.commands import main
from dpo_lab.training import course, run_job as running, sweep as sweeping
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.callbacks import Callback
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.learner import Learner, NonFiniteLoss
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.sweep import sweep

QUICK = TrainConfig(
    steps=9, batch_pairs=4, limit=36, eval_every=3, eval_pairs=4, kl_samples=4, sample_prompts=2,
    max_new_tokens=4, checkpoint_every=4, learning_rate=1e-3,
)  # fmt: skip
FILES = ("metrics.jsonl", "samples.jsonl")


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
        drift = record["eval/logratios/chosen"] - record["eval/logratios/rejected"]
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
    last = At(5, lambda: (other.set(**move), other.stop()))
    parts = begin(tmp_path / "b", QUICK, last, control=other)
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

    whole = train_in("whole")
    with monkeypatch.context() as patch:
        patch.setattr(running, "measure_outcome", killed)
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
    with monkeypatch.context() as patch:
        patch.setattr(running, "measure_outcome", killed)
        with pytest.raises(Killed):
            sweeping.run_one(QUICK.resolved(), tmp_path / "one", threading.Event())
    assert Run(tmp_path / "one").summary["state"] == "done"
    (row,) = sweep({"one": QUICK}, tmp_path, workers=1)
    assert row["score"] is not None and Run(tmp_path / "one").finished


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
        with pytest.raises(NonFiniteLoss, match=f"step {at}: after it 1 weights are not finite"):
            begin(tmp_path / "b", config)
    run = Run(tmp_path / "b")
    assert run.summary["state"] == "failed" and "weights are not finite" in run.summary["error"]
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
    with pytest.raises(NonFiniteLoss, match="step 4: after it the gradient is not finite"):
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


OTHER = {"loss": "ipo", "steps": 12, "seed": 1, "kl_samples": 5, "weight_decay": 0.1}


@pytest.mark.parametrize("name", OTHER)
def test_a_run_does_not_go_on_under_other_settings(tmp_path, name):
    run = begin(tmp_path / "run", QUICK)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    changed = replace(QUICK, **{name: OTHER[name]})
    with pytest.raises(ValueError, match=f"was begun with {name}={getattr(QUICK, name)}, not "):
        BackgroundRun(changed, folder=run.path).start().wait(60)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_a_run_goes_on_with_another_beta_and_learning_rate_from_there_on(tmp_path):
    """As if they had been moved in mid-run; what it was begun with stays."""
    moved = {"beta": 0.5, "learning_rate": 2e-4}
    control = RunControl()
    whole = begin(tmp_path / "a", QUICK, At(5, lambda: control.set(**moved)), control=control)
    first = RunControl()
    parts = begin(tmp_path / "b", QUICK, At(5, first.stop), control=first)
    begin(parts.path, replace(QUICK, **moved))
    same_records(whole, parts)
    assert parts.records()[6]["change/learning_rate"] == 2e-4
    assert parts.config.beta == 0.1 and parts.live.as_dict() == moved
    with pytest.raises(ValueError, match="no step is left for beta, learning_rate to change"):
        begin(parts.path, replace(QUICK, beta=0.7, learning_rate=1e-4))
    assert parts.summary["state"] == "done" and parts.live.as_dict() == moved


def test_a_checkpoint_beyond_the_run_s_steps_is_no_place_to_go_on_from(tmp_path):
    run = begin(tmp_path / "run", QUICK)
    with pytest.raises(ValueError, match="its checkpoint is of step 9, and the run has 4"):
        list(train(prepare(replace(QUICK, steps=4)), run=run))
    assert run.summary["state"] == "done" and run.summary["step"] == 9


def test_a_change_at_a_step_that_has_its_checkpoint_already_is_kept(tmp_path):
    """Step 4 has one, written before beta moved: paused there, moved, stopped."""
    control = RunControl()
    move = {"beta": 0.7, "learning_rate": 3e-4}
    whole = begin(tmp_path / "a", QUICK, At(4, lambda: control.set(**move)), control=control)
    other = RunControl()
    last = At(4, lambda: (other.set(**move), other.stop()))
    parts = begin(tmp_path / "b", QUICK, last, control=other)
    assert parts.live.as_dict() == move
    begin(parts.path, QUICK)
    assert [r.beta for r in parts.records()] == [0.1] * 5 + [0.7] * 5
    same_records(whole, parts)


def test_a_checkpoint_of_another_device_is_taken_up(tmp_path, monkeypatch):
    """Torch notes with each tensor where it lay; there is no such device here."""
    whole = begin(tmp_path / "a", QUICK)
    control = RunControl()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        parts = begin(tmp_path / "b", QUICK, At(5, control.stop), control=control)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(parts.checkpoint / "trainer.pt", weights_only=True)
    begin(parts.path, QUICK)
    same_records(whole, parts)


def test_a_run_that_is_done_stays_done_however_it_is_taken_up_again(tmp_path):
    run = begin(tmp_path / "run", QUICK)
    run.finish({"outcome": {"what": "measured"}})
    end = run.summary
    assert (end["state"], end["step"]) == ("done", 9)
    begin(run.path, QUICK)
    assert run.summary == end
    lines = run.path / "metrics.jsonl"
    text = lines.read_text()
    lines.write_text(text.replace('"step": 3', '"step": 8', 1))
    with pytest.raises(ValueError, match="line 4 of 10 is not what was written"):
        begin(run.path, QUICK)
    assert run.summary == end, "a folder that is refused stays as it is"
    lines.write_text(text)
    run.lock()  # free
    run.unlock()


def test_an_outcome_is_forgotten_with_the_steps_that_it_was_of(tmp_path):
    run = begin(tmp_path / "run", QUICK)
    run.finish({"outcome": {"what": "measured"}})
    shutil.rmtree(run.checkpoint)
    control = RunControl()
    begin(run.path, QUICK, At(2, control.stop), control=control)
    assert run.summary == {"state": "stopped", "step": 2, "error": None}


def test_a_consumer_that_leaves_at_the_last_record_has_a_run_that_is_done(tmp_path):
    job = prepare(QUICK)
    run = open_or_create(Run(tmp_path / "run"), job)
    ended = []
    watch = Callback()
    watch.on_end = lambda state, error: ended.append(state)
    for record in train(job, run=run, callbacks=[watch]):
        if record.step == 9:
            break
    assert run.summary["state"] == "done" and ended == ["done"]


class Clock:
    """Seconds that pass where the test says so."""

    def __init__(self):
        self.now = 0.0
        self.perf_counter = time.perf_counter

    def monotonic(self) -> float:
        return self.now

    def steps_of(self, seconds: float) -> Callback:
        each = Callback()
        each.on_step = lambda record: self.pass_by(seconds)
        return each

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def checkpoints_of(monkeypatch, path: Path, config: TrainConfig, seconds: float, writing=0.0):
    """A run with steps, and checkpoints, of so many seconds; and where it had checkpoints."""
    clock, kept, save = Clock(), Callback(), course.save_state
    steps = []
    kept.on_checkpoint = steps.append

    def slow(learner, folder):
        save(learner, folder)
        clock.pass_by(writing)

    with monkeypatch.context() as patch:
        patch.setattr(course, "time", clock)
        patch.setattr(course, "save_state", slow)
        run = begin(path, config, clock.steps_of(seconds), kept)
    return run, steps


def test_a_checkpoint_is_due_by_time_too_and_changes_no_record(tmp_path, monkeypatch):
    """A run of two minutes, with a checkpoint every 50 steps, has one after the first minute."""
    config = replace(QUICK, steps=12, checkpoint_every=50, eval_every=0)
    whole, at = checkpoints_of(monkeypatch, tmp_path / "a", config, 1.0)
    assert at == [12]
    parts, at = checkpoints_of(monkeypatch, tmp_path / "b", config, 10.0)
    assert at == [6, 12]
    same = [(run.path / "metrics.jsonl").read_bytes() for run in (whole, parts)]
    assert same[0] == same[1]
    # One that takes 5 seconds is due after 100: at most a twentieth of the time goes into them.
    steps = replace(config, steps=25)
    assert checkpoints_of(monkeypatch, tmp_path / "c", steps, 10.0, writing=5.0)[1] == [6, 16, 25]
    none = replace(config, checkpoint_every=0)
    assert checkpoints_of(monkeypatch, tmp_path / "d", none, 10.0)[1] == [12]


def test_no_change_is_taken_where_one_of_two_is_refused():
    control = RunControl()
    with pytest.raises(ValueError, match="learning_rate=-1: must be"):
        control.set(beta=0.5, learning_rate=-1)
    assert control.wait_for_turn() == {}
    control.set(beta=0.5, learning_rate=1e-4)
    assert control.wait_for_turn() == {"beta": 0.5, "learning_rate": 1e-4}
