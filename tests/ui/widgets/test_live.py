from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from sheet_page import SheetPage, history

from dpo_lab.ui.figures.losses import noise_spec
from dpo_lab.ui.figures.training_figure import training_spec
from dpo_lab.ui.widgets.live import LATE, MUTE, NOT_DRAWN, TRIES, LiveFigure, Ticker, rest


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that figures see; their timers wait for ever."""
    now = [1000.0]
    monkeypatch.setattr("dpo_lab.ui.widgets.live.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("dpo_lab.ui.widgets.live.threading.Timer.start", lambda timer: None)
    return now


def test_a_page_that_draws_nothing_is_sent_everything_again_and_it_is_said(clock) -> None:
    figure, told = LiveFigure(training_spec([])), []
    figure.on_trouble = lambda: told.append(figure.trouble)
    figure.draw(training_spec(history(9)))
    figure._look()
    assert not figure._watch and not figure.trouble  # no page is open
    page = SheetPage(figure)
    assert figure._watch
    page.lost = True
    for _ in range(9):  # updates go on meanwhile
        clock[0] += LATE
        figure.draw(training_spec(history(int(clock[0]) % 100 + 1)))
        figure._look()
    whole = [names for names in page.sent if {"layout", "trace 0", "config"} <= set(names)]
    assert len(whole) == TRIES and not figure._watch  # and no more: the tab may be gone
    assert told == [NOT_DRAWN] and MUTE > LATE
    page.says(drawn=figure._version)
    assert told == [NOT_DRAWN, ""] and not figure.trouble
    # A page that speaks is at work: nothing is said of it.
    clock[0] += 10 * LATE
    figure.draw(training_spec(history(3)))
    for _ in range(9):
        clock[0] += LATE
        page.says(plotly=0)
        figure._look()
    assert told == [NOT_DRAWN, ""]


def test_a_slow_page_is_spared(clock) -> None:
    figure = LiveFigure(training_spec([]))
    page = SheetPage(figure)
    assert not figure.busy  # nothing was sent since it was opened
    page.says(drawn=figure._version, took=0.1)
    clock[0] += 0.2
    assert not figure.busy
    figure.draw(training_spec(history(9)))
    assert figure.busy
    clock[0] += 0.7
    page.says(drawn=figure._version - 1, took=0.1)  # not the last
    assert figure.busy
    page.says(drawn=figure._version, took=0.7)
    clock[0] += 0.6
    assert figure.busy  # it rests as long as it took
    clock[0] += 0.2
    assert not figure.busy
    clock[0] += 60
    page.says(drawn=figure._version, took=0.3)  # opened again
    clock[0] += 0.4
    assert not figure.busy
    figure.draw(training_spec(history(10)))
    clock[0] += 2.1
    assert not figure.busy  # no answer: drawn for again
    figure.view._view_count = 0
    figure.draw(training_spec(history(11)))
    assert not figure.busy


@pytest.mark.parametrize("content", [None, [], "x", {"drawn": "x"}, {"plotly": -1}, {"missing": 1}])
def test_nonsense_from_a_page_is_let_pass(content) -> None:
    figure = LiveFigure(training_spec([]))
    figure.view.sheet._handle_custom_msg(content, [])
    assert not figure.trouble


def test_a_figure_of_other_traces_is_refused_and_closing_frees_both_models() -> None:
    figure = LiveFigure(noise_spec({}))
    with pytest.raises(ValueError, match="as many"):
        figure.draw(training_spec([]))
    figure.view._view_count = 1
    watch, sheet = figure._watch, figure.view.sheet
    figure.close()
    assert watch.finished.is_set() and sheet.comm is None and figure.view.comm is None
    assert figure.view.pages == 0  # nobody waits for it any more


def test_drawing_and_messages_from_the_page_do_not_meet() -> None:
    figure, errors = LiveFigure(training_spec([])), []

    def hammer(draw) -> None:
        try:
            for steps in range(1, 40):
                draw(steps)
        except BaseException as error:
            errors.append(error)

    page = SheetPage(figure)
    works = (
        lambda steps: figure.draw(training_spec(history(steps))),
        lambda steps: figure.draw(training_spec(history(40 - steps))),
        lambda steps: page.says(drawn=steps, missing=[]),
    )
    threads = [threading.Thread(target=hammer, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    figure.draw(training_spec(history(7)))
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


def test_drawing_takes_a_fiftieth_of_the_processor_and_a_person_never_waits_long(monkeypatch):
    assert [rest(took) for took in (0.0, 0.004, 0.01, 0.03, 5.0)] == [0.2, 0.2, 0.5, 1.5, 2.0]
    # Time that others had of the processor is not the drawing's.
    waited, spent = [], iter((0.0, 0.02, 0.02, 0.02))
    monkeypatch.setattr("dpo_lab.ui.widgets.live.time.thread_time", lambda: next(spent))
    monkeypatch.setattr("dpo_lab.ui.widgets.live.time.perf_counter", lambda: 0.0)
    ticker = Ticker(lambda: None)
    ticker._hurry.wait = lambda seconds: (waited.append(seconds), ticker.end())
    ticker.run()
    assert waited == [1.0]
