"""What a comparison has found: each judge's win rate, bias and agreement, in numbers and words."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from dpo_lab.analysis.controlled_win_rate import ControlledWinRate, controlled_win_rate
from dpo_lab.analysis.forgetting import TextChange
from dpo_lab.analysis.judge_agreement import Agreement, agreement
from dpo_lab.analysis.win_rate import Votes, WinRate, win_rate
from dpo_lab.annotation.blind import a_is_left, win_of_a
from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.side_answers import AnswerPair
from dpo_lab.annotation.verdict_session import check_about
from dpo_lab.data.pairs import same_prompt
from dpo_lab.training.outcome import MeanCI

FEWEST = 20
"""Prompts that it takes to remove a judge's bias."""


@dataclass(frozen=True)
class Judged:
    """What one judge says.

    Attributes:
        judge: Its name.
        win: The win rate of A.
        controlled: The same with the effects of length and place removed; none of fewer than
            `FEWEST` prompts, too few for a regression.
        verdicts: Questions with a verdict.
        no_verdict: Questions without one: a malformed reply, or skipped.
    """

    judge: str
    win: WinRate
    controlled: ControlledWinRate | None
    verdicts: int
    no_verdict: int


@dataclass(frozen=True)
class ComparisonResult:
    """Answers of two models side by side, and what judges and neutral text say of them.

    Attributes:
        names: Names of models A and B.
        pairs: Their answers.
        judged: By each judge.
        agreements: Of every two judges, by their names joined with " and ".
        verdicts: By judge, then by number of the pair: A, B or tie.
        forgetting: Log-likelihood of neutral text, A against B; none if it was not measured.
        notes: What was left out, and why.
    """

    names: tuple[str, str]
    pairs: Sequence[AnswerPair]
    judged: Sequence[Judged]
    agreements: Mapping[str, Agreement]
    verdicts: Mapping[str, Mapping[int, str]]
    forgetting: TextChange | None = None
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        names: tuple[str, str],
        pairs: Sequence[AnswerPair],
        answers: Mapping[str, Sequence[Answer]],
        *,
        orderless: Collection[str] = (),
        forgetting: TextChange | None = None,
        notes: Sequence[str] = (),
    ) -> ComparisonResult:
        """The result of verdicts.

        Args:
            names: Names of models A and B.
            pairs: Their answers.
            answers: By judge, its answers to the blind questions about them.
            orderless: Judges that see no order, such as a reward.
            forgetting: From `text_change`.
            notes: What was left out.

        Raises:
            ValueError: If a verdict is about other answers.
        """
        found = [
            one
            for name, given in answers.items()
            if (one := judged_by(name, pairs, given, name not in orderless))
        ]
        verdicts = {one.judge: verdicts_of(pairs, answers[one.judge]) for one in found}
        agreements = {}
        for one, other in combinations(verdicts, 2):
            # Where both answers are the same nobody was asked, so that nobody agreed.
            asked = [p.number for p in pairs if not p.same]
            both = [n for n in asked if n in verdicts[one] and n in verdicts[other]]
            if both:
                sides = ([verdicts[name][number] for number in both] for name in (one, other))
                prompts = [same_prompt(pairs[number].prompt) for number in both]
                agreements[f"{one} and {other}"] = agreement(*sides, prompts)
        return cls(names, pairs, found, agreements, verdicts, forgetting, notes)

    def __str__(self) -> str:
        """Each judge's result as sentences."""
        lines = []
        for one in self.judged:
            lines += [f"{one.judge}:", *(f"- {line}" for line in in_words(one, self.names))]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values as JSON has them (NaN is none), without the answers."""
        values = {
            "a": self.names[0],
            "b": self.names[1],
            "answers": len(self.pairs),
            "same": sum(pair.same for pair in self.pairs),
            "cut": {
                "a": sum(pair.a_cut for pair in self.pairs),
                "b": sum(pair.b_cut for pair in self.pairs),
            },
            "judges": [asdict(one) for one in self.judged],
            "agreement": {name: asdict(one) for name, one in self.agreements.items()},
            "forgetting": self.forgetting and asdict(self.forgetting),
            "notes": list(self.notes),
        }
        return _without_nan(values)


def judged_by(
    name: str, pairs: Sequence[AnswerPair], answers: Sequence[Answer], sees_order: bool = True
) -> Judged | None:
    """What a judge's answers say; none before its first verdict."""
    votes = votes_of(pairs, answers, sees_order)
    given = sum(answer.choice != "skip" for answer in answers)
    if not given:
        return None
    missing = len(answers) - given
    win = win_rate(votes)
    controlled = controlled_win_rate(votes) if win.rate.n >= FEWEST else None
    return Judged(name, win, controlled, given, missing)


def votes_of(
    pairs: Sequence[AnswerPair], answers: Sequence[Answer], sees_order: bool = True
) -> Votes:
    """Votes for A; two equal answers are a tie that nobody was asked about.

    Raises:
        ValueError: If an answer is about others than these pairs.
    """
    check_about(pairs, answers)
    by_number = {pair.number: pair for pair in pairs}
    rows = [(pair, 0.5, 0) for pair in pairs if pair.same]
    for answer in answers:
        win = win_of_a(answer)
        if win is not None:
            place = 1 if a_is_left(answer.question) else -1
            rows.append((by_number[answer.question.draw], win, place if sees_order else 0))
    return Votes(
        prompts=[same_prompt(pair.prompt) for pair, _, _ in rows],
        wins=[win for _, win, _ in rows],
        place=[place for _, _, place in rows],
        extra_length=[len(pair.a.strip()) - len(pair.b.strip()) for pair, _, _ in rows],
    )


def verdicts_of(pairs: Sequence[AnswerPair], answers: Sequence[Answer]) -> dict[int, str]:
    """The verdict on each pair, A, B or tie: the mean of its orders."""
    wins: dict[int, list[float]] = {pair.number: [0.5] for pair in pairs if pair.same}
    for answer in answers:
        win = win_of_a(answer)
        if win is not None:
            wins.setdefault(answer.question.draw, []).append(win)
    names = {-1: "B", 0: "tie", 1: "A"}
    return {n: names[(sum(w) > len(w) / 2) - (sum(w) < len(w) / 2)] for n, w in wins.items()}


def in_words(one: Judged, names: tuple[str, str]) -> list[str]:
    """A judge's result as sentences."""
    win, controlled = one.win, one.controlled
    lines = [
        f"{names[0]} wins {share(win.rate)} against {names[1]}; of {win.rate.n} prompts "
        f"{win.won} won, {win.tied} tied, {win.lost} lost (a tie counts half): "
        + _seen(win.rate, f"{names[0]} is better", f"{names[1]} is better", "no difference is seen")
    ]
    if controlled is None:
        lines.append(f"To remove a bias for length or place takes {FEWEST} prompts or more.")
    elif controlled.length or controlled.place:
        causes = [("equal lengths", controlled.length), ("no advantage of place", controlled.place)]
        removed = " and ".join(words for words, effect in causes if effect)
        lines.append(f"With {removed}: {share(controlled.rate)}.")
    if win.first:
        bias = _seen(win.first, "a bias for it", "a bias for the second", "no bias is seen")
        lines.append(f"The answer shown first wins {share(win.first)}: {bias}")
    if win.flips:
        lines.append(
            f"Swapping the sides flips the verdict on {share(win.flips)} of {win.flips.n} prompts."
        )
    if win.longer:
        cause = "the judge prefers {0} answers, or the {0} ones are better"
        words = (cause.format("long"), cause.format("short"), "no preference for length is seen")
        lines.append(f"The longer answer wins {share(win.longer)}: {_seen(win.longer, *words)}")
    lines.append(
        f"With {win.rate.n} prompts like these, a win rate {100 * win.detectable:.1f} points from "
        "50 % is seen four times in five."
    )
    if one.no_verdict:
        lines.append(
            f"{one.no_verdict} of {one.verdicts + one.no_verdict} questions have no verdict and "
            "are left out."
        )
    return lines


def _seen(value: MeanCI, above: str, below: str, neither: str) -> str:
    """What an interval of a share says of 50 %, as the end of a sentence."""
    return f"{above if value.low > 0.5 else below if value.high < 0.5 else neither}."


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def share(value: MeanCI) -> str:
    """A share in per cent with its interval."""
    return f"{100 * value.mean:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"
