from __future__ import annotations

import signal
import threading
from dataclasses import replace

import pytest

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.models.loading import load_model
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.runs import Run

_CONFIG = TrainConfig(steps=12, batch_pairs=4, eval_every=6, eval_pairs=8, kl_samples=5)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dpo-lab")]


def test_it_gives_the_very_records_of_the_loop() -> None:
    run = BackgroundRun(_CONFIG).start().wait(120)
    expected = list(train(prepare(_CONFIG)))
    assert run.state == "done"
    assert [r.as_dict() for r in run.records] == [r.as_dict() for r in expected]
    assert not _threads()


def test_an_error_in_the_thread_is_raised_by_wait() -> None:
    run = BackgroundRun(TrainConfig(data="nowhere.jsonl")).start()
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        run.wait(60)
    assert run.state == "failed" and not _threads()


def test_a_paused_run_takes_single_steps_and_stop_releases_it() -> None:
    run = BackgroundRun(_CONFIG)
    reached = threading.Semaphore(0)
    run.control.pause()
    keep = run.on_step
    run.on_step = lambda record: (keep(record), reached.release())
    run.start()
    assert reached.acquire(timeout=60)  # the evaluation of step 0
    for step in (1, 2):
        run.control.step()
        assert reached.acquire(timeout=60)
        assert run.state == "paused" and run.records[-1].step == step
    run.stop()
    assert run.wait(60).state == "stopped" and len(run.records) == 3


def test_waiting_too_short_leaves_the_run_alone() -> None:
    run = BackgroundRun(_CONFIG)
    run.control.pause()
    run.start()
    with pytest.raises(TimeoutError, match="goes on"):
        run.wait(0.01)
    assert run.running
    run.stop()
    run.wait(60)


@pytest.fixture
def interrupts():
    """Interrupts are heard, also where a shell's background job would ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_waiting_stops_the_run_cleanly(tmp_path, interrupts) -> None:
    run = BackgroundRun(_CONFIG, folder=tmp_path / "run")
    run.control.pause()
    keep = run.on_step
    # The interrupt comes when the run is known to be at work.
    main = threading.main_thread().ident
    run.on_step = lambda record: (keep(record), signal.pthread_kill(main, signal.SIGINT))
    run.start()
    with pytest.raises(KeyboardInterrupt):
        run.wait(60)
    assert run.state == "stopped" and not _threads()
    assert Run.open(tmp_path / "run").summary["state"] == "stopped"


def test_a_stopped_run_goes_on_in_its_folder_as_if_never_stopped(tmp_path) -> None:
    whole = BackgroundRun(_CONFIG).start().wait(120)
    first = BackgroundRun(_CONFIG, folder=tmp_path / "run")
    first.control.pause()
    for _ in range(5):
        first.control.step()
    keep = first.on_step
    first.on_step = lambda record: (keep(record), record.step == 5 and first.stop())
    assert first.start().wait(120).state == "stopped"
    second = BackgroundRun(_CONFIG, folder=tmp_path / "run").start().wait(120)
    assert second.state == "done"
    assert [r.as_dict() for r in second.records] == [r.as_dict() for r in whole.records]


def test_a_model_that_was_handed_over_is_not_changed() -> None:
    model = load_model("micro")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    run = BackgroundRun(_CONFIG, model=model).start().wait(120)
    assert all((before[name] == now).all() for name, now in model.model.state_dict().items())
    trained = run.job.policy.model.state_dict()
    assert any((before[name] != now).any() for name, now in trained.items())


def test_pausing_takes_back_the_steps_that_were_allowed() -> None:
    run = BackgroundRun(replace(_CONFIG, steps=5000, eval_every=0))
    run.control.pause()
    run.control.step(4000)
    run.start().reach(5, 60)
    run.control.pause()
    while run.state != "paused":
        run.reach(run.records[-1].step, 60)
    step = run.records[-1].step
    assert step < 4000
    run.control.step()
    assert run.reach(step + 1, 60).records[-1].step == step + 1
    with pytest.raises(ValueError, match="steps=0"):
        run.control.step(0)
    run.end()
    assert run.state == "stopped"


def test_a_resumed_run_has_reached_what_is_behind_it(tmp_path) -> None:
    first = BackgroundRun(_CONFIG, folder=tmp_path / "run")
    first.control.pause()
    first.control.step(5)
    first.start().reach(5, 60)
    first.end()
    second = BackgroundRun(_CONFIG, folder=tmp_path / "run")
    second.control.pause()
    assert second.start().reach(5, 60).records[-1].step == 5
    second.end()


def test_stop_while_it_is_prepared_ends_it_before_any_step() -> None:
    run = BackgroundRun(_CONFIG)
    run.stop()
    assert run.start().wait(60).state == "stopped" and len(run.records) == 0
