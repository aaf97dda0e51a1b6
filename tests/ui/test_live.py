from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest

from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.curves import FORMER_CURVES, FORMER_RUNS, MAX_POINTS, Former
from dpo_lab.ui.figures import training_figure, training_spec
from dpo_lab.ui.live import LiveFigure, Ticker

TRAIN = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
TRAIN += ("drift/chosen", "drift/rejected", "rewards/margins_p10", "rewards/margins_p90")


def _history(steps: int, beta: float = 0.1) -> History:
    history = History()
    for step in range(1, steps + 1):
        values = {key: math.sin(step + place) for place, key in enumerate(TRAIN)}
        if step % 25 == 0:
            values |= {"kl/policy": step / 100, "kl/policy_stderr": 0.1, "kl/policy_n": 64.0}
        history.append(StepRecord(step, 0.0, step, beta, 1e-3, values))
    return history


def _same(figure, expected) -> None:
    for trace, wanted in zip(figure.data, expected.data, strict=True):
        mine, theirs = trace.to_plotly_json(), wanted.to_plotly_json()
        for axis in ("x", "y", "customdata"):
            np.testing.assert_array_equal(mine.pop(axis, ()), theirs.pop(axis, ()))
        for axis in ("error_x", "error_y"):
            mine_bars, their_bars = mine.pop(axis, {}), theirs.pop(axis, {})
            np.testing.assert_array_equal(mine_bars.pop("array", ()), their_bars.pop("array", ()))
            assert mine_bars == their_bars
        mine.pop("uid"), theirs.pop("uid", None)
        assert mine == theirs
    drawn, wanted = figure.layout.to_plotly_json(), expected.layout.to_plotly_json()
    drawn.pop("autosize")
    nothing = ([], {})
    assert {k: v for k, v in drawn.items() if v not in nothing} == wanted


def test_after_any_drawing_it_shows_what_a_new_figure_would() -> None:
    former = [Former("before", _history(60, 0.5)), Former("long before", _history(40, 2.0))]
    figure = LiveFigure(training_spec([]))
    changed = _history(30)
    changed.append(StepRecord(31, 0.0, 31, 0.7, 1e-3, {"loss": 1.0, "score/policy": 2.0}))
    for records, behind in ((_history(30), []), (changed, former), (_history(3), former[:1])):
        figure.draw(training_spec(records, start_loss=0.7, former=behind))
        expected = training_figure(records, start_loss=0.7, former=behind)
        unused = (FORMER_RUNS - len(behind)) * FORMER_CURVES
        assert all(len(trace.y) == 0 for trace in figure.data[:unused])
        _same(type("Shown", (), {"data": figure.data[unused:], "layout": figure.layout}), expected)


def test_an_hour_long_run_stays_small() -> None:
    records = _history(100_000)
    figure, messages = LiveFigure(training_spec([])), []
    figure._send_update_msg = lambda **message: messages.append(message)
    spec = training_spec(records, former=[Former("before", records)] * 9)
    figure.draw(spec)
    assert max(len(trace.x) for trace in figure.data) == MAX_POINTS
    size = sum(trace.x.nbytes + trace.y.nbytes for trace in figure.data)
    assert size < 300_000
    assert all(trace.y.dtype == np.float32 for trace in figure.data)
    # One more record: only the traces that it belongs to are sent again.
    records.append(StepRecord(100_001, 0.0, 0, 0.1, 1e-3, dict.fromkeys(TRAIN, 0.0)))
    figure.draw(training_spec(records, former=[Former("before", _history(10))] * 0))
    assert records._table.nbytes < 20e6
    assert len(messages) == 2


def test_a_reloaded_page_gets_what_was_settled() -> None:
    figure = LiveFigure(training_spec([]))
    figure.draw(training_spec(_history(50), start_loss=0.7))
    figure.settle()
    sent = figure.get_state()
    loss = next(trace for trace in sent["_widget_data"] if trace["meta"] == "loss")
    assert loss["y"]["shape"] == (50,) and loss["y"]["dtype"] == "float32"
    assert sent["_widget_layout"]["autosize"] is True


def test_drawing_and_messages_from_the_page_do_not_meet() -> None:
    figure, errors = LiveFigure(training_spec([])), []

    def hammer(draw) -> None:
        try:
            for steps in range(1, 40):
                draw(steps)
        except BaseException as error:
            errors.append(error)

    message = {"content": {"data": {"method": "update", "state": {}}}}
    works = (
        lambda steps: figure.draw(training_spec(_history(steps))),
        lambda steps: figure.draw(training_spec(_history(40 - steps))),
        lambda steps: figure._handle_msg(message),
    )
    threads = [threading.Thread(target=hammer, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    figure.draw(training_spec(_history(7)))
    assert next(trace for trace in figure.data if trace.meta == "loss").y[-1] == np.float32(
        math.sin(7)
    )


def test_the_ticker_works_once_more_when_it_is_ended_and_keeps_an_error() -> None:
    seen, first = [], threading.Event()
    ticker = Ticker(lambda: (seen.append(len(seen)), first.set()))
    ticker.start()
    assert first.wait(10)
    ticker.end()
    ticker.join(10)
    assert not ticker.is_alive() and len(seen) >= 2

    def fail() -> None:
        raise OSError("no")

    broken = Ticker(fail)
    broken.start()
    broken.end()
    broken.join(10)
    assert not broken.is_alive() and isinstance(broken.error, OSError)


def test_the_figure_offers_no_upload() -> None:
    figure = LiveFigure(training_spec([]))
    assert figure._config["showSendToCloud"] is False
    assert json.dumps(figure._config)


@pytest.mark.parametrize("runs", [0, 1, FORMER_RUNS, FORMER_RUNS + 3])
def test_former_runs_fade_with_age(runs: int) -> None:
    former = [Former(f"run {age}", _history(200 + age)) for age in range(runs)]
    figure = training_figure(_history(10), former=former)
    losses = [t for t in figure.data if t.meta.startswith("former") and t.meta.endswith("loss")]
    assert len(losses) == min(runs, FORMER_RUNS)
    opacities = [trace.opacity for trace in losses]  # the oldest is drawn first
    assert opacities == sorted(opacities) and len(set(opacities)) == len(opacities)
    for age, trace in enumerate(reversed(losses)):
        assert trace.x[-1] == 200 + age and trace.name == f"run {age}"
