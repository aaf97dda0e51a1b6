from __future__ import annotations

import math
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from page_messages import says, sets
from sheet_page import SheetPage, history

from dpo_lab.ui.figures.losses import noise_spec
from dpo_lab.ui.figures.training_figure import training_spec
from dpo_lab.ui.widgets.live import LATE, MUTE, NOT_DRAWN, TRIES, LiveFigure, Ticker, rest


class Clock:
    """The time that figures see; what waits for a timer is done when it is passed."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def timer(self, seconds: float, work: Callable[[], None]) -> SimpleNamespace:
        one = (self.now + seconds, work)
        return SimpleNamespace(
            start=lambda: self.waiting.append(one), cancel=lambda: self.waiting.remove(one)
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for one in [one for one in self.waiting if one[0] <= self.now]:
            self.waiting.remove(one)
            one[1]()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("dpo_lab.ui.widgets.live.time.perf_counter", lambda: made.now)
    monkeypatch.setattr("dpo_lab.ui.widgets.live.threading.Timer", made.timer)
    return made


def test_a_page_that_draws_nothing_is_sent_everything_again_and_it_is_said(clock) -> None:
    figure, told = LiveFigure(training_spec([])), []
    figure.on_trouble = lambda: told.append(figure.trouble)
    figure.draw(training_spec(history(9)))
    assert not clock.waiting and not figure.trouble  # no page is open
    page = SheetPage(figure)
    assert clock.waiting
    page.lost = True
    for steps in range(10, 19):  # updates go on meanwhile
        figure.draw(training_spec(history(steps)))
        clock.passes(LATE)
    whole = [names for names in page.sent if {"layout", "trace 0", "config"} <= set(names)]
    assert len(whole) == TRIES and not clock.waiting  # and no more: the tab may be gone
    assert told == [NOT_DRAWN] and MUTE > LATE
    page.says(drawn=page.version)
    assert told == [NOT_DRAWN, ""] and not figure.trouble
    # A page that speaks is at work: nothing is said of it.
    clock.passes(10 * LATE)
    figure.draw(training_spec(history(3)))
    for _ in range(9):
        page.says(plotly=0)
        clock.passes(LATE)
    assert told == [NOT_DRAWN, ""]


def test_a_slow_page_is_spared(clock) -> None:
    figure = LiveFigure(training_spec([]))
    page = SheetPage(figure)
    assert not figure.busy  # nothing was sent since it was opened
    page.says(drawn=page.version, took=0.1)
    clock.now += 0.2
    assert not figure.busy
    figure.draw(training_spec(history(9)))
    assert figure.busy
    clock.now += 0.7
    page.says(drawn=page.version - 1, took=0.1)  # not the last
    assert figure.busy
    page.says(drawn=page.version, took=0.7)
    clock.now += 0.6
    assert figure.busy  # it rests as long as it took
    clock.now += 0.2
    assert not figure.busy
    clock.now += 60
    page.says(drawn=page.version, took=0.3)  # opened again
    clock.now += 0.4
    assert not figure.busy
    figure.draw(training_spec(history(10)))
    clock.now += 2.1
    assert not figure.busy  # no answer: drawn for again
    sets(figure.view, _view_count=0)
    figure.draw(training_spec(history(11)))
    assert not figure.busy


@pytest.mark.parametrize("content", [None, [], "x", {"drawn": "x"}, {"plotly": -1}, {"missing": 1}])
def test_nonsense_from_a_page_is_let_pass(content, caplog) -> None:
    figure = LiveFigure(training_spec([]))
    says(figure.view.sheet, content)
    assert not figure.trouble and not caplog.records  # what a message raises is logged


def test_a_figure_of_other_traces_is_refused_and_closing_frees_both_models(clock) -> None:
    figure = LiveFigure(noise_spec({}))
    with pytest.raises(ValueError, match="as many"):
        figure.draw(training_spec([]))
    sheet = SheetPage(figure).sheet
    assert clock.waiting
    figure.close()
    assert not clock.waiting and sheet.comm is None and figure.view.comm is None
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
    with monkeypatch.context() as patch:
        patch.setattr("threading.Event.wait", lambda _, sec: (waited.append(sec), ticker.end()))
        ticker.run()
    assert waited == [1.0]
