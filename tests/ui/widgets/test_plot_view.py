from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from sheet_page import SheetPage, checked, history, plain

import dpo_lab
from dpo_lab.objective.registry import LOSSES
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.losses import curve_traces, curves_spec, noise_spec
from dpo_lab.ui.figures.style import POLICY
from dpo_lab.ui.figures.training_curves import FORMER_CURVES, FORMER_RUNS, MAX_POINTS, Former
from dpo_lab.ui.figures.training_figure import training_figure, training_spec
from dpo_lab.ui.widgets.live import LiveFigure
from dpo_lab.ui.widgets.plot_view import PART, as_sent


def test_after_any_drawing_a_page_holds_what_a_new_figure_would() -> None:
    former = [Former("before", history(60, 0.5)), Former("long before", history(40, 2.0))]
    figure = LiveFigure(training_spec([]))
    page = SheetPage(figure)
    changed = history(30)
    changed.append(StepRecord(31, 0.0, 31, 0.7, 1e-3, {"loss": 1.0, "score/policy": 2.0}))
    for records, behind in ((history(30), []), (changed, former), (history(3), former[:1])):
        spec = training_spec(records, start_loss=0.7, former=behind)
        figure.draw(spec)
        assert page.shows() == checked(spec) and page.missing() == []
        expected = training_figure(records, start_loss=0.7, former=behind)
        unused = (FORMER_RUNS - len(behind)) * FORMER_CURVES
        assert all(len(trace.y) == 0 for trace in figure.data[:unused])
        mine = [plain(trace.to_plotly_json()) for trace in figure.data[unused:]]
        assert mine == [plain(trace.to_plotly_json()) for trace in expected.data]
        assert figure.layout == expected.layout


CURVES = curves_spec(curve_traces("ipo", LOSSES["ipo"], 0.3, {"color": POLICY}), 0.3)


@pytest.mark.parametrize("spec", [noise_spec({}), CURVES, training_spec([])])
def test_every_live_figure_is_sent_as_plotly_itself_would_read_it(spec) -> None:
    assert SheetPage(LiveFigure(spec)).shows() == checked(spec)


def test_no_figure_of_the_package_is_plotlys_own_widget() -> None:
    """Its module is 5 MB, and a page gives a module two seconds."""
    sources = Path(dpo_lab.__file__).parent.rglob("*.py")
    assert not [path for path in sources if "FigureWidget" in path.read_text()]


def test_what_is_sent_is_nested_renamed_and_in_bytes() -> None:
    flat = {"title.text": "KL", "title": {"standoff": 4}, "none": None, "x": np.float32([1, 2])}
    assert as_sent({"xaxis1": flat, "legend1": [np.int64(3), math.nan]}) == {
        "xaxis": {
            "title": {"text": "KL", "standoff": 4},
            "x": {"dtype": "float32", "value": b"\0\0\x80?\0\0\0@"},
        },
        "legend": [3, None],
    }
    assert as_sent(np.array([[1.5, math.nan]])) == [[1.5, None]]
    assert as_sent(np.array([1, 2])) == [1, 2]  # a page has no array of 64-bit integers


def test_an_hour_long_run_stays_small() -> None:
    records = history(100_000)
    figure = LiveFigure(training_spec([]))
    page = SheetPage(figure)
    spec = training_spec(records, former=[Former("before", records)] * 9)
    figure.draw(spec)
    assert max(len(trace.x) for trace in figure.data) == MAX_POINTS
    assert page.size(0) < 350_000
    assert all(trace.y.dtype == np.float32 for trace in figure.data)
    assert len(pickle.dumps(records)) < 20e6


def test_of_one_more_record_only_the_traces_that_it_belongs_to_are_sent_again() -> None:
    records, former = history(30), [Former("before", history(20, 0.5))]
    figure = LiveFigure(training_spec(records, former=former))
    page, metas = SheetPage(figure), [trace.meta for trace in figure.data]
    records.append(StepRecord(31, 0.0, 31, 0.1, 1e-3, {"logratios/chosen": -1.0}))
    figure.draw(training_spec(records, former=former))
    (sent,) = page.sent
    traces = [metas[int(name.split()[1])] for name in sent if name.startswith("trace ")]
    assert traces == ["logratios/chosen"]
    figure.draw(training_spec(records, former=former))  # nothing has changed: nothing is sent
    assert len(page.sent) == 1


def test_a_page_that_comes_later_or_again_gets_all_of_it() -> None:
    figure = LiveFigure(training_spec([]))
    spec = training_spec(history(50), start_loss=0.7)
    figure.draw(spec)
    assert SheetPage(figure).shows() == checked(spec)


def test_a_page_that_missed_a_message_knows_it_and_is_given_what_it_lacks() -> None:
    figure = LiveFigure(training_spec([]))
    page = SheetPage(figure)
    page.lost = True
    figure.draw(training_spec(history(30)))
    page.lost = False
    spec = training_spec(history(30), start_loss=0.7)  # two pieces change, the others are lost
    figure.draw(spec)
    lacking = page.missing()
    assert len(lacking) > 5 and page.shows() != checked(spec)
    page.says(missing=lacking)
    assert page.missing() == [] and page.shows() == checked(spec)


def test_plotly_comes_in_parts_and_the_page_needs_no_more_than_a_few_kilobytes_first() -> None:
    figure = LiveFigure(training_spec([]))
    page, parts = SheetPage(figure), []
    page.sheet.send = lambda content, buffers: parts.append((content, buffers[0]))
    got = 0
    while not parts or got < parts[-1][0]["size"]:
        page.says(plotly=got)
        content, part = parts[-1]
        assert content["start"] == got and len(part) <= PART
        got += len(part)
    assert gzip.decompress(b"".join(part for _, part in parts)).decode() == get_plotlyjs()
    first = figure.view.get_state()
    assert len(first["_esm"]) + len(first["_css"]) < 20_000
    # The page knows the model of what it draws without any module of ours.
    model = page.sheet.get_state({"_model_module", "_model_name"})
    assert model == {"_model_module": "@jupyter-widgets/base", "_model_name": "WidgetModel"}


BLUE, VERMILION = "#0072B2", "#D55E00"


def test_chosen_is_blue_and_rejected_vermilion_in_every_panel() -> None:
    records = history(50)
    for step in (60, 61):
        keys = ("rewards/chosen", "rewards/rejected", "logratios/chosen", "logratios/rejected")
        values = {f"eval/{key}": float(step) for key in keys}
        records.append(StepRecord(step, 0.0, step, 0.1, 1e-3, values))
    page = SheetPage(LiveFigure(training_spec(records, former=[Former("before", records)])))
    seen = {BLUE: 0, VERMILION: 0}
    for trace in page.shows()["data"]:
        sides = [side for side in ("chosen", "rejected") if side in trace["meta"]]
        for side in sides:
            colour = BLUE if side == "chosen" else VERMILION
            looks = [trace["line"], trace.get("marker", trace["line"])]
            assert [look["color"] for look in looks] == [colour] * 2, trace["meta"]
            seen[colour] += len(trace["x"]) > 0
        if not sides:
            assert trace.get("line", {}).get("color") not in seen, trace["meta"]
    assert seen == {BLUE: 6, VERMILION: 6}  # two panels: train, held-out, and the run before


def test_the_figure_offers_no_upload() -> None:
    config = LiveFigure(training_spec([])).view.sheet.get_state("config")["config"]["piece"]
    assert config["showSendToCloud"] is False
    assert json.dumps(config)


@pytest.mark.parametrize("runs", [0, 1, FORMER_RUNS, FORMER_RUNS + 3])
def test_former_runs_fade_with_age(runs: int) -> None:
    former = [Former(f"run {age}", history(200 + age)) for age in range(runs)]
    figure = training_figure(history(10), former=former)
    losses = [t for t in figure.data if t.meta.startswith("former") and t.meta.endswith("loss")]
    assert len(losses) == min(runs, FORMER_RUNS)
    opacities = [trace.opacity for trace in losses]  # the oldest is drawn first
    assert opacities == sorted(opacities) and len(set(opacities)) == len(opacities)
    for age, trace in enumerate(reversed(losses)):
        assert trace.x[-1] == 200 + age and trace.name == f"run {age}"
