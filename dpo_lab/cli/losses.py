"""The command that lists the losses."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.cli.arguments import Flag
from dpo_lab.cli.output import print_rows, say


@dataclass(frozen=True)
class Losses:
    """Every loss by name: formula, paper, options, and what its logged rewards mean."""

    json: Flag = False
    """One JSON object a loss, a line each, instead of a table."""

    def __call__(self) -> None:
        """Print a row a loss."""
        from dpo_lab.objective.registry import LOSSES, SUMS

        rows = [
            {
                "loss": name,
                "of a pair": loss.formula,
                "source": loss.citation,
                "options": ", ".join(f"{k}={v}" for k, v in loss.options.items()),
                "rewards are": loss.rewards,
                "status": loss.status,
            }
            for name, loss in LOSSES.items()
        ]
        if not self.json:
            rows = [{k: v for k, v in row.items() if k != "status"} for row in rows]
            say(f"weighted sums go too, such as {' or '.join(map(repr, SUMS))}")
        print_rows(rows, self.json)
