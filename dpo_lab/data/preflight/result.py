"""What a check of data says: rows, lengths, rules, findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dpo_lab.data.preflight.findings import SEVERITIES, Finding
from dpo_lab.data.preflight.lengths import Lengths
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.preflight.shortcuts import RuleResult


@dataclass(frozen=True)
class SplitCount:
    """What becomes of the rows of a split.

    Attributes:
        rows: Rows read.
        pairs: Pairs made of them.
        usable: Pairs that have token ids and survive the cut.
    """

    rows: int = 0
    pairs: int = 0
    usable: int = 0


@dataclass(frozen=True, repr=False)
class DataCheck:
    """What is known of a data set before anything is trained on it.

    Attributes:
        source: Its name.
        tokenizer: Name of the tokenizer.
        settings: Settings of the check.
        splits: Rows of each split of the source.
        trained: Pairs on the training side of the split that a run would make.
        held_out: Pairs on the other.
        prompts: Number of different prompts.
        lengths: Lengths in tokens before any cut: pair, prompt, chosen, rejected.
        rules: Rules that look at form alone, the best first.
        scripts: Texts by script: prompt, chosen, rejected.
        findings: What was found, the most serious first.
        cleaned: Rows written to `train.jsonl` and `test.jsonl`, if any were.
    """

    source: str
    tokenizer: str
    settings: CheckSettings
    splits: Mapping[str, SplitCount]
    trained: int
    held_out: int
    prompts: int
    lengths: Mapping[str, Lengths]
    rules: tuple[RuleResult, ...]
    scripts: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    cleaned: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Rows read."""
        return sum(split.rows for split in self.splits.values())

    @property
    def usable(self) -> int:
        """Pairs that can be trained or evaluated on."""
        return sum(split.usable for split in self.splits.values())

    @property
    def serious(self) -> bool:
        """Whether any finding is serious."""
        return any(finding.severity == "serious" for finding in self.findings)

    def counted(self) -> dict[str, int]:
        """Number of findings of each severity."""
        found = [finding.severity for finding in self.findings]
        return {severity: found.count(severity) for severity in SEVERITIES}

    def finding(self, name: str) -> Finding | None:
        """The first finding of a kind, if there is one."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{count} {severity}{'s' * (severity != 'serious' and count != 1)}"
            for severity, count in self.counted().items()
        )
        return (
            f"{self.source}: {self.rows:,} rows, {self.usable:,} pairs can be used "
            f"({self.trained:,} to train on, {self.held_out:,} held out); {counts}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "source": self.source,
            "tokenizer": self.tokenizer,
            "settings": asdict(self.settings),
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "rows": self.rows,
            "usable": self.usable,
            "trained": self.trained,
            "held_out": self.held_out,
            "prompts": self.prompts,
            "lengths": {part: lengths.as_dict() for part, lengths in self.lengths.items()},
            "rules": [
                asdict(rule) | {"share": rule.share, "interval": rule.interval}
                for rule in self.rules
            ],
            "scripts": {side: dict(counts) for side, counts in self.scripts.items()},
            "cleaned": self.cleaned,
            "findings": [asdict(one) | {"share": one.share} for one in self.findings],
        }
