"""A comparison as one web page: a file of HTML without scripts, all text escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from dpo_lab.analysis.judge_agreement import Agreement
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.data.pairs import prompt_text
from dpo_lab.data.sampled import shown
from dpo_lab.training.files import write_bytes
from dpo_lab.training.outcome import MeanCI
from dpo_lab.ui.compare.result import ComparisonResult, Judged, in_words, share
from dpo_lab.ui.figures.style import CSS_COLOURS
from dpo_lab.ui.html.page_policy import content_policy
from dpo_lab.ui.html.tables import AS_IT_IS, render, table

SHOWN = 20
"""Answers before the rest is folded away."""


@dataclass(frozen=True)
class Bar:
    """One share with its interval, on an axis from 0 to 100 %.

    Attributes:
        label: What it is.
        value: The share.
        main: Whether it is a win rate, and no bias.
    """

    label: str
    value: MeanCI
    main: bool

    @property
    def text(self) -> str:
        """In per cent with its interval."""
        return share(self.value)

    @property
    def place(self) -> tuple[float, float, float]:
        """Left end, width and point, in per cent of the axis."""
        low, high = max(0.0, self.value.low), min(1.0, self.value.high)
        return 100 * low, 100 * (high - low), 100 * self.value.mean


def write_page(path: Path, result: ComparisonResult, title: str) -> Path:
    """Write the page of a comparison, all of it or nothing.

    Args:
        path: The file.
        result: What was found.
        title: Plain text.

    Returns:
        `path`.
    """
    folder = files("dpo_lab.ui")
    styles = ("report/report.css", "compare/page.css")
    rows = _rows(result)
    page = render(
        "compare/page.html.jinja",
        title=title,
        policy=content_policy(()).replace("script-src ;", "script-src 'none';"),
        style=CSS_COLOURS + "".join(folder.joinpath(name).read_text("utf-8") for name in styles),
        names=result.names,
        judged=judged_html(result),
        forgetting=result.forgetting and forgetting_words(result),
        notes=result.notes,
        facts=_facts(result),
        answers=Markup(rows(result.pairs[:SHOWN])),
        rest=Markup(rows(result.pairs[SHOWN:])) if len(result.pairs) > SHOWN else "",
        more=len(result.pairs) - SHOWN,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode(errors="replace"))
    return path


def judged_html(result: ComparisonResult) -> str:
    """What each judge says as HTML, every text in it escaped."""
    return render(
        "compare/judged.html.jinja",
        names=result.names,
        judged=[(one, list(_bars(one)), in_words(one, result.names)) for one in result.judged],
        agreements={name: agreement_words(one) for name, one in result.agreements.items()},
    )


def forgetting_words(result: ComparisonResult) -> str:
    """The change on neutral text as a sentence."""
    found, (a, b) = result.forgetting, result.names
    change = found.change
    verdict = "no change is seen"
    if change.high < 0:
        verdict = f"{a} has lost some of it"
    elif change.low > 0:
        verdict = f"{a} knows it better"
    values = [f"{found.a:.3f}", f"{found.b:.3f}"]
    values += [f"{end:+.4f}" for end in (change.mean, change.low, change.high)]
    values += [f"{100 * math.expm1(-change.mean):+.1f}"]
    mine, other, mean, low, high, perplexity = (value.replace("-", "−") for value in values)
    return (
        f"Neutral text has {mine} nats per token under {a} and {other} under {b}: {mean} (95 % "
        f"interval {low} to {high}, {change.n} passages, {found.tokens} tokens), which is "
        f"{perplexity} % of perplexity; {verdict}."
    )


def _bars(one: Judged) -> Iterator[Bar]:
    yield Bar("wins", one.win.rate, True)
    if one.controlled and (one.controlled.length or one.controlled.place):
        yield Bar("wins, bias removed", one.controlled.rate, True)
    if one.win.first:
        yield Bar("the first shown wins", one.win.first, False)
    if one.win.longer:
        yield Bar("the longer wins", one.win.longer, False)


def agreement_words(one: Agreement) -> str:
    """How far two judges agree, as words."""
    words, kappa = f"the same verdict on {share(one.share)} of the comparisons", one.kappa
    if math.isnan(kappa.mean):
        return f"{words}; both always give one verdict, so that chance would agree too"
    return f"{words}; Cohen's κ {kappa.mean:.2f} ({kappa.low:.2f} to {kappa.high:.2f})"


def _facts(result: ComparisonResult) -> str:
    pairs = result.pairs
    same, cut = (
        sum(p.same for p in pairs),
        [sum(p.a_cut for p in pairs), sum(p.b_cut for p in pairs)],
    )
    words = f"{len(pairs)} answers of each"
    if same:
        words += f", {same} of them the same text, which counts as a tie"
    if any(cut):
        words += f"; cut at the length limit: {cut[0]} of {result.names[0]}, {cut[1]} of "
        words += result.names[1]
    return words + "."


def _rows(result: ComparisonResult) -> Callable[[Sequence[AnswerPair]], str]:
    judges = list(result.verdicts)
    names = {"A": result.names[0], "B": result.names[1], "tie": "tie"}
    kinds = ("policy", "reference")
    titles = ["Prompt"]
    titles += [
        Markup("<i class='{}'></i>{}").format(kind, name)
        for kind, name in zip(kinds, result.names, strict=True)
    ]
    titles += [f"Better: {judge}" for judge in judges]

    def rows(pairs: Sequence[AnswerPair]) -> str:
        cells = [
            [
                prompt_text(pair.prompt),
                shown(pair.a, pair.a_cut) or Markup("<em>(empty)</em>"),
                shown(pair.b, pair.b_cut) or Markup("<em>(empty)</em>"),
                *(names.get(result.verdicts[judge].get(pair.number), "–") for judge in judges),
            ]
            for pair in pairs
        ]
        widths = [22.0, *[(78.0 - 11 * len(judges)) / 2] * 2, *[11.0] * len(judges)]
        return table(titles, cells, widths=widths, kind=f"samples compared {AS_IT_IS}")

    return rows
