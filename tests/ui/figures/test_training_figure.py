from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from dpo_lab.analysis.frontier_curve import FrontierCurve, distance
from dpo_lab.objective.optimum import Frontier
from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.style import PLOTLY_CONFIG
from dpo_lab.ui.figures.training_curves import Former, beta_changes, series, thin
from dpo_lab.ui.figures.training_figure import MAX_CHANGES, training_figure

TRAIN_KEYS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logratios/chosen",
    "logratios/rejected",
)
HELD_OUT_KEYS = tuple(f"eval/{key}" for key in TRAIN_KEYS)
MEASURED_KEYS = ("kl/per_token", "kl/k1", "score/policy", "score/reference")
BAND = ("rewards/margins_p10", "rewards/margins_p90")
SPREADS = {"kl/per_token_stderr": 0.25, "kl/k1_stderr": 0.5, "kl/n": 64.0}
SPREADS |= {"score/policy_stderr": 0.1}
SAMPLED_KEYS = tuple(
    f"on_policy/{key}" for key in ("reward", "objective", "entropy", "equal")
)  # empty where nothing was sampled
THEORETICAL = ("frontier", "optimum")  # empty where no theory is given


def _record(step: int, values: dict[str, float], beta: float = 0.1) -> StepRecord:
    return StepRecord(step, step / 10, 16 * step, beta, 1e-3, values)


def _run(steps: int, every: int = 5) -> list[StepRecord]:
    """Every key has numbers of its own, so that no curve can pass with another's."""
    records = []
    for step in range(steps + 1):
        values = {}
        if step:
            values |= {key: 100 * i + step / 8 for i, key in enumerate(TRAIN_KEYS)}
            values |= {"rewards/margins_p10": -3 - step, "rewards/margins_p90": 7 + step}
        if step % every == 0:
            held_out = (*HELD_OUT_KEYS, *MEASURED_KEYS)
            values |= {key: -(100 * i + step / 4) for i, key in enumerate(held_out)} | SPREADS
        records.append(_record(step, values))
    return records


def _traces(figure: go.Figure) -> dict[str, go.Scatter]:
    traces = {trace.meta: trace for trace in figure.data}
    assert len(traces) == len(figure.data)
    return traces


@pytest.mark.parametrize("key", [*TRAIN_KEYS, *HELD_OUT_KEYS, *MEASURED_KEYS])
def test_a_curve_carries_exactly_the_numbers_of_its_key(key: str) -> None:
    records = _run(20)
    trace = _traces(training_figure(records))[key]
    measured = [record for record in records if record.get(key) is not None]
    np.testing.assert_array_equal(trace.x, [record.step for record in measured])
    np.testing.assert_array_equal(trace.y, [record[key] for record in measured])


def test_a_held_out_curve_has_points_at_evaluations_alone() -> None:
    traces = _traces(training_figure(_run(20, every=10)))
    assert list(traces["eval/loss"].x) == [0, 10, 20]
    assert list(traces["loss"].x) == list(range(1, 21))
    assert "markers" in traces["eval/loss"].mode
    assert traces["eval/loss"].line.dash not in (None, "solid")


def test_curves_stand_in_the_panels_of_their_names() -> None:
    figure = training_figure(_run(20))
    axes = {key: trace.yaxis for key, trace in _traces(figure).items()}
    assert axes["loss"] == axes["eval/loss"] == axes["start_loss"] == "y"
    assert axes["rewards/chosen"] == axes["eval/rewards/rejected"] == "y2"
    assert axes["rewards/margins"] == axes["rewards/margins low"] == "y3"
    assert axes["kl/per_token"] == axes["kl/per_token high"] == axes["kl/k1"] == "y4"
    assert axes["logratios/chosen"] == axes["eval/logratios/rejected"] == "y5"
    assert axes["rewards/accuracies"] == axes["eval/rewards/accuracies"] == "y6"
    assert axes["score/policy"] == axes["score/reference"] == "y7"
    assert figure.layout.yaxis3.title.text == "margin (nats)"


def test_the_margin_band_lies_between_the_percentiles() -> None:
    records = _run(8)
    traces = _traces(training_figure(records))
    low, high = traces["rewards/margins low"], traces["rewards/margins high"]
    np.testing.assert_array_equal(low.y, [r["rewards/margins_p10"] for r in records[1:]])
    np.testing.assert_array_equal(high.y, [r["rewards/margins_p90"] for r in records[1:]])
    assert high.fill == "tonexty" and low.fill is None
    keys = [trace.meta for trace in training_figure(records).data]
    assert keys.index("rewards/margins high") == keys.index("rewards/margins low") + 1


def test_the_kl_band_is_one_standard_error_each_way() -> None:
    records = [
        _record(0, {"kl/per_token": 2.0, "kl/per_token_stderr": 0.5}),
        _record(5, {"kl/per_token": 3.0, "kl/per_token_stderr": math.nan}),
        _record(9, {"kl/per_token": 4.0, "kl/per_token_stderr": 0.25}),
    ]
    traces = _traces(training_figure(records))
    assert list(traces["kl/per_token"].y) == [2, 3, 4]
    assert list(traces["kl/per_token low"].x) == [0, 9]
    assert list(traces["kl/per_token low"].y) == [1.5, 3.75]
    assert list(traces["kl/per_token high"].y) == [2.5, 4.25]
    assert traces["kl/k1"].opacity < (traces["kl/per_token"].opacity or 1)


def test_the_kl_panel_names_its_estimator_and_n() -> None:
    figure = training_figure(_run(10))
    (words,) = [a.text for a in figure.layout.annotations if "KL(" in a.text]
    assert "n = 64 of the policy's own samples" in words and "1 s.e." in words
    assert _traces(figure)["kl/per_token"].name == "per token"


@pytest.mark.parametrize("n", [1, 2, 999, 1000, 1001, 5000, 98_765])
def test_thinning_keeps_first_and_last_and_order(n: int) -> None:
    kept = thin(np.arange(n))
    assert len(kept) == min(n, 1000)
    assert kept[0] == 0 and kept[-1] == n - 1
    assert (np.diff(kept) > 0).all()


def test_no_trace_is_longer_than_the_limit_and_all_are_float32() -> None:
    records = _run(5000, every=2)
    figure = training_figure(records, start_loss=math.log(2))
    for trace in figure.data:
        if trace.meta in (*THEORETICAL, *SAMPLED_KEYS, "proxy/policy"):
            continue
        assert 2 <= len(trace.x) == len(trace.y) <= 1000
        assert trace.x.dtype == trace.y.dtype == np.float32
        assert trace.x[-1] == 5000 or trace.meta == "path"
    assert _traces(figure)["loss"].x[0] == 1
    assert _traces(figure)["loss"].y[-1] == np.float32(records[-1]["loss"])


def test_a_run_on_its_own_answers_shows_their_reward_and_entropy_in_place_of_loss_and_margin():
    """No panel is empty, and an earlier run of pairs draws no loss among the rewards."""
    pairs, records = _run(20), []
    for record in pairs:
        kept = {key: v for key, v in record.values.items() if key not in (*TRAIN_KEYS, *BAND)}
        sampled = {key: i + record.step / 8 for i, key in enumerate(SAMPLED_KEYS)}
        records.append(_record(record.step, kept | (sampled if record.step else {})))
    figure = training_figure(records, former=[Former("before", pairs, "DPO")])
    traces = _traces(figure)
    for number, key in enumerate(SAMPLED_KEYS):
        np.testing.assert_array_equal(traces[key].x, range(1, 21))
        expected = [number + step / 8 for step in range(1, 21)]
        np.testing.assert_allclose(traces[key].y, expected)
    assert {traces[key].yaxis for key in SAMPLED_KEYS} == {"y", "y3", "y6"}
    for key in ("loss", "eval/loss", "rewards/margins", "eval/rewards/margins"):
        assert not len(traces[key].x)
    assert not len(traces["former 0 on_policy/reward"].x)
    assert traces["former 0 path"].text[-1] == "DPO β 0.1"
    words = [note.text for note in figure.layout.annotations]
    assert not any("no values yet" in text for text in words)
    assert any("Reward of its answers" in text for text in words)
    shown = {trace.name for trace in figure.data if trace.showlegend}
    assert {"chosen", "rejected", "reward − β × KL"} <= shown


def test_series_takes_only_steps_that_have_every_key() -> None:
    records = [_record(0, {"a": 1.0}), _record(1, {"a": 2.0, "b": 3.0}), _record(2, {"b": 4.0})]
    np.testing.assert_array_equal(series(records, "a", "b"), [[1, 2, 3]])
    assert series(records, "c").shape == (0, 2)


def test_shade_only_where_both_log_ratios_are_below_zero() -> None:
    sides = [(1, -1), (-1, -1), (-1, 1), (0, -1), (-0.5, -2), (1, 1)]
    records = [
        _record(step, {"logratios/chosen": chosen, "logratios/rejected": rejected})
        for step, (chosen, rejected) in enumerate(sides, start=1)
    ]
    figure = training_figure(records)
    shade = _traces(figure)["both fell"]
    assert list(shade.x) == [1, 2, 3, 4, 5, 6]
    assert list(shade.y) == [0, 1, 0, 0, 1, 0]
    assert shade.fill == "tozeroy" and shade.line.shape == "hvh"
    axis = figure.layout[shade.yaxis.replace("y", "yaxis")]
    assert axis.overlaying == "y5" and tuple(axis.range) == (0, 1)


def test_a_change_of_beta_is_a_marked_line_in_every_panel() -> None:
    records = _run(20)
    changed = [
        StepRecord(r.step, r.epoch, r.pairs_seen, 0.1 if r.step < 12 else 0.35, 1e-3, r.values)
        for r in records
    ]
    assert beta_changes(records) == [] and beta_changes(changed) == [(12, 0.35)]
    assert not training_figure(records).layout.shapes
    figure = training_figure(changed)
    assert {shape.xref for shape in figure.layout.shapes} == {"x", *(f"x{n}" for n in range(2, 8))}
    assert all(shape.x0 == shape.x1 == 12 for shape in figure.layout.shapes)
    labels = [a for a in figure.layout.annotations if a.name == "change"]
    assert len(labels) == 7
    assert all(label.text == "β 0.35" and label.x == 12 for label in labels)


def test_a_change_of_the_learning_rate_is_marked_with_the_new_peak() -> None:
    records = [_record(step, {"loss": 1.0}) for step in range(20)]
    records[7] = _record(7, {"loss": 1.0, "change/learning_rate": 2e-4})
    figure = training_figure(records)
    assert {shape.x0 for shape in figure.layout.shapes} == {7}
    assert {a.text for a in figure.layout.annotations if a.name == "change"} == {"lr 0.0002"}


def test_labels_of_changes_keep_apart_while_the_newest_changes_have_their_lines() -> None:
    records = [_record(step, {"loss": 1.0}, beta=0.1 + step / 100) for step in range(101)]
    figure = training_figure(records)
    assert sorted({s.x0 for s in figure.layout.shapes}) == list(range(101 - MAX_CHANGES, 101))
    labelled = sorted({a.x for a in figure.layout.annotations if a.name == "change"})
    assert len(labelled) > 1 and min(np.diff(labelled)) >= 15


def test_the_start_loss_is_drawn_from_end_to_end_and_sets_the_unit() -> None:
    records = _run(20)
    dpo = training_figure(records, start_loss=math.log(2))
    line = _traces(dpo)["start_loss"]
    assert list(line.x) == [0, 20] and list(line.y) == [np.float32(math.log(2))] * 2
    assert line.name == "ln 2" and line.line.dash and line.showlegend
    assert dpo.layout.yaxis.title.text == "loss (nats)"
    ipo = training_figure(records, start_loss=25.0)
    assert _traces(ipo)["start_loss"].name == "at margin 0"
    assert ipo.layout.yaxis.title.text == "loss"
    none = _traces(training_figure(records))["start_loss"]
    assert len(none.x) == 0 and not none.showlegend


def test_the_third_row_has_the_path_of_score_against_kl_with_the_exact_frontier_behind() -> None:
    reference = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    rewards = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    theory = FrontierCurve.of(Frontier(reference, rewards))
    records = [
        _record(step, {
            "kl/per_token": step / 50, "kl/per_token_stderr": 0.01,
            "score/policy": step / 40, "score/policy_stderr": 0.02,
        }, beta=0.5)
        for step in (0, 5, 10)
    ]  # fmt: skip
    traces = _traces(training_figure(records, theory=theory))
    path, frontier, star = traces["path"], traces["frontier"], traces["optimum"]
    np.testing.assert_allclose(path.x, [0, 0.1, 0.2])
    np.testing.assert_allclose(path.y, [0, 0.125, 0.25])
    np.testing.assert_allclose(path.error_y.array, [0.02] * 3)
    # pi* at beta 1/2: weights 1/2, e^2/4, e^-2/4.
    weights = np.array([0.5, math.e**2 / 4, math.e**-2 / 4])
    shares = weights / weights.sum()
    assert star.y[0] == pytest.approx(shares[1] - shares[2], rel=1e-6)
    kl = (shares * np.log(shares / [0.5, 0.25, 0.25])).sum()
    assert star.x[0] == pytest.approx(kl, rel=1e-6)
    assert frontier.x[-1] == pytest.approx(1.15 * kl, rel=1e-6) and frontier.x[0] == 0
    assert np.interp(star.x[0], frontier.x, frontier.y) == pytest.approx(star.y[0], abs=2e-3)
    words = distance(History(records), theory)
    best = Frontier(reference, rewards).at_kl(0.2).reward
    assert f"more than {best:.2f}" in words and f"scores 0.25: {0.25 / best:.0%}" in words
    assert distance(History(records), None) == ""


def test_a_score_has_an_axis_of_its_own_and_takes_no_room_when_absent() -> None:
    scored = training_figure(_run(20)).layout
    assert scored.yaxis7.domain[1] < scored.yaxis6.domain[0]
    assert tuple(scored.yaxis6.range) != tuple(scored.yaxis7.range or ())
    plain = [
        _record(r.step, {k: v for k, v in r.values.items() if "score" not in k}) for r in _run(9)
    ]
    layout = training_figure(plain).layout
    assert layout.yaxis6.domain[0] == pytest.approx(0, abs=1e-9)
    assert layout.yaxis7.visible is False and layout.height < scored.height
    assert not any("Score" in a.text for a in layout.annotations)


def test_no_panel_legend_or_heading_lies_over_another_panel() -> None:
    layout = training_figure(_run(20)).layout
    height = layout.height - layout.margin.t - layout.margin.b
    names = ["", *(str(n) for n in range(2, 8)), "9"]
    for name in names:
        (left, right), top = layout[f"xaxis{name}"].domain, layout[f"yaxis{name}"].domain[1]
        legend = layout[f"legend{name}"]
        assert legend.y > top and legend.yanchor == "bottom" and legend.x == left
        for other in set(names) - {name}:
            across = layout[f"xaxis{other}"].domain
            floor = layout[f"yaxis{other}"].domain[0]
            if across[0] < right and left < across[1] and floor >= top:
                # Two lines of heading and a legend need 68 pixels above the panel.
                assert (floor - top) * height >= 68
    assert layout.margin.t >= 68


def test_traces_are_the_same_and_in_the_same_order_whatever_is_measured() -> None:
    empty, full = training_figure([]), training_figure(_run(20), start_loss=1.0)
    assert [trace.meta for trace in empty.data] == [trace.meta for trace in full.data]
    assert all(len(trace.x) == 0 for trace in empty.data)
    assert sum(a.text == "no values yet" for a in empty.layout.annotations) == 6
    assert not any(a.text == "no values yet" for a in full.layout.annotations)


def test_a_title_is_text_and_never_markup() -> None:
    layout = training_figure(_run(5), title="<a href='x'>a</a> & b").layout
    assert layout.title.text == "<b>&lt;a href='x'&gt;a&lt;/a&gt; &amp; b</b>"
    assert layout.height > training_figure(_run(5)).layout.height


def test_backgrounds_are_transparent_and_nothing_can_be_uploaded() -> None:
    style = training_figure(_run(5)).layout.template.layout
    assert style.paper_bgcolor == style.plot_bgcolor == "rgba(0, 0, 0, 0)"
    assert PLOTLY_CONFIG["showSendToCloud"] is False and PLOTLY_CONFIG["displaylogo"] is False


def test_the_start_loss_steps_where_beta_was_changed() -> None:
    line = _traces(training_figure(_run(20), start_loss=[(0, 25.0), (12, 0.25)]))["start_loss"]
    assert list(line.x) == [0, 12, 20] and list(line.y) == [25, 0.25, 0.25]
    assert line.line.shape == "hv" and line.name == "at margin 0"
    dpo = training_figure(_run(20), start_loss=[(0, math.log(2)), (12, math.log(2))])
    assert _traces(dpo)["start_loss"].name == "ln 2"
    mixed = training_figure(_run(20), start_loss=[(0, math.log(2)), (12, 0.5)])
    assert mixed.layout.yaxis.title.text == "loss"


def test_the_score_has_its_n_and_its_standard_error_as_the_kl_has() -> None:
    records = _run(10)
    figure = training_figure(records)
    (words,) = [
        a.text for a in figure.layout.annotations if "<b style='font-size:14px'>Score<" in a.text
    ]
    assert words.endswith("n = 64 of the policy's own samples, ±1 s.e.")  # whoever scored them
    traces = _traces(figure)
    scores = np.float32(
        [record["score/policy"] for record in (records[0], records[5], records[10])]
    )
    np.testing.assert_allclose(traces["score/policy low"].y, scores - np.float32(0.1))
    np.testing.assert_allclose(traces["score/policy high"].y, scores + np.float32(0.1))


def test_pair_accuracy_says_of_how_many_pairs_and_within_what() -> None:
    """Two right of two: Wilson's interval begins at 2 / (2 + 1.96^2) = 0.34."""
    values = {"eval/rewards/accuracies": 0.0, "eval/pairs": 2}
    records = [StepRecord(0, 0.0, 0, 0.1, 1e-3, values)]
    not_yet = StepRecord(3, 1.0, 6, 0.1, 1e-3, {"rewards/accuracies": 0.5})
    measured = StepRecord(4, 1.0, 8, 0.1, 1e-3, values | {"eval/rewards/accuracies": 1.0})
    later = StepRecord(5, 1.0, 10, 0.1, 1e-3, {"rewards/accuracies": 0.5})
    notes = [
        next(n.text for n in training_figure(some).layout.annotations if "Pair accuracy" in n.text)
        for some in (records, [*records, not_yet], [*records, not_yet, measured, later])
    ]
    assert all(note.endswith("a tie at step 0 reads 0") for note in notes[:2])
    assert notes[2].endswith("held-out n = 2: 34% to 100% (95 %); step 0: tie")
