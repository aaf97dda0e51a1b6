"""Rules that look at nothing but the form of the responses, and how often they pick the chosen one.

A policy can learn such a rule in place of what was meant. Where one is right on most pairs, what
training achieved on held-out pairs says little: the rule achieves it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dpo_lab.data.preflight.column_files import ColumnFiles
from dpo_lab.data.preflight.findings import Example, Tally
from dpo_lab.data.preflight.signs import BUCKETS, FORMS
from dpo_lab.data.wilson import wilson

NOTABLE, SERIOUS = 0.6, 0.75
"""A rule is a finding if the lower end of the 95 % interval of its share right is above these."""


@dataclass(frozen=True)
class RuleResult:
    """How often a rule picks the chosen response.

    Attributes:
        name: What it looks at.
        rule: Which response it picks, in words.
        right: Pairs on which it picks the chosen one.
        wrong: Pairs on which it picks the rejected one.
        pairs: All pairs; on the others it cannot decide, and a coin does.
        examples: Pairs on which it is right.
    """

    name: str
    rule: str
    right: int
    wrong: int
    pairs: int
    examples: tuple[Example, ...] = ()

    @property
    def share(self) -> float:
        """Share of all pairs that it gets right, ties counted as a half."""
        return 0.5 + (self.right - self.wrong) / (2 * self.pairs) if self.pairs else 0.5

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; with ties it is wider than need be."""
        return wilson(self.share, self.pairs) if self.pairs else (0.0, 1.0)


def rule_results(
    tally: Tally, columns: ColumnFiles, first: Mapping[int, str]
) -> tuple[RuleResult, ...]:
    """Each rule in the direction in which it is right more often, the best first.

    Args:
        tally: Counts of `form/NAME/more` and `form/NAME/less`.
        columns: Of all pairs.
        first: First words by their bucket.
    """
    words = {name: (form.more, form.less) for name, form in FORMS.items()}
    words["script"] = "in the prompt's script", "in another script than the prompt"
    results = [_first_words(columns, first)]
    for name, rules in words.items():
        counts = [tally.counts[f"form/{name}/{which}"] for which in ("more", "less")]
        best = int(counts[1] > counts[0])
        results.append(
            RuleResult(
                name,
                rules[best],
                counts[best],
                counts[1 - best],
                len(columns),
                tally.shown(f"form/{name}/{('more', 'less')[best]}"),
            )
        )
    return tuple(sorted(results, key=lambda result: -result.share))


def _first_words(columns: ColumnFiles, first: Mapping[int, str]) -> RuleResult:
    """The response whose first two words are more often chosen, learnt on the other half.

    With a rule that is fitted to the data, pairs that it was fitted to say nothing.
    """
    counts = np.zeros((2, BUCKETS, 2))
    for half, _, *sides in _halves(columns):
        for side, buckets in enumerate(sides):
            counts[half, :, side] += np.bincount(buckets, minlength=BUCKETS)
    scores = np.log1p(counts[:, :, 0]) - np.log1p(counts[:, :, 1])
    right = wrong = 0
    likely: list[Example] = []
    for half, rows, chosen, rejected in _halves(columns):
        picked = np.sign(scores[1 - half][chosen] - scores[1 - half][rejected])
        right, wrong = right + int((picked > 0).sum()), wrong + int((picked < 0).sum())
        clearest = np.argsort(-(scores[1 - half][chosen] - scores[1 - half][rejected]))[:3]
        for at in clearest:
            text, beside = (first.get(int(side[at]), "") for side in (chosen, rejected))
            example = Example(int(rows[at]), "", f"chosen: {text} …", f"rejected: {beside} …")
            likely.append(example)
    return RuleResult(
        "first words",
        "first two words as in chosen responses",
        right,
        wrong,
        len(columns),
        tuple(likely[:3]),
    )


def _halves(columns: ColumnFiles) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of either half by their prompt: 0 or 1, rows, first words of chosen and rejected."""
    names = ("prompt", "row", "chosen_first", "rejected_first")
    for _, (prompts, rows, chosen, rejected) in columns.blocks(*names):
        side = (prompts >> np.uint64(17)) & np.uint64(1)
        for half in (0, 1):
            inside = side == half
            yield half, rows[inside], chosen[inside], rejected[inside]
