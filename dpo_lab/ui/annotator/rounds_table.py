"""The rounds of an annotation session as a table."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.annotation.rounds import Round
from dpo_lab.ui.html.tables import number, table

TITLES = ("Round", "Questions of", "Answered", "Pairs", "Same answer twice")
SCORE = "Score of its answers"


def rounds_html(rounds: Sequence[Round], scored: bool) -> str:
    """A row for each round, as HTML.

    Args:
        rounds: The rounds.
        scored: Whether there is a reward.
    """
    titles, rows = [*TITLES, SCORE] if scored else TITLES, []
    for each in rounds:
        who = "the reference" if each.number == 1 else f"the policy of round {each.number - 1}"
        same, score = each.agreement, each.score
        cells = [each.number, who, each.answered, each.pairs]
        cells.append(f"{same.mean * same.n:.0f} of {same.n}" if same else "–")
        if scored:
            ends = f" ({number(score.low)} to {number(score.high)})" if score else ""
            cells.append(f"{number(score.mean if score else None)}{ends}")
        rows.append(cells)
    note = "Every run starts from the reference and trains on all pairs"
    note += "; scores with their 95 % interval." if scored else "."
    shown = table(titles, rows, titles[2:], kind="samples")
    return f"<h3>Rounds</h3><p class='note'>{note}</p>{shown}"
