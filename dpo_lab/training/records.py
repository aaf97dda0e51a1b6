"""What a run writes down: plain floats and strings, one record a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache

from dpo_lab.data.sampled import shown

# Keys that runs were written with before, each with the one that it is now.
_FORMER = {
    "kl/policy_n": "kl/n",
    "kl/policy": "kl/per_token",
    "kl/log_ratio": "kl/k1",
    "drift/": "logratios/",
    "displacement/chosen_fell": "logratios/chosen_negative",
}


@cache
def _now(key: str) -> str:
    """The present name of a metric."""
    for former, name in _FORMER.items():
        for before in ("", "eval/"):
            if key.startswith(before + former):
                return before + name + key.removeprefix(before + former)
    return key


STEP_FIELDS = ("step", "epoch", "pairs_seen", "beta", "learning_rate")


@dataclass(frozen=True)
class StepRecord:
    """State of a run after an optimiser step (step 0: before the first, evaluation alone).

    Attributes:
        step: Optimiser steps done.
        epoch: Passes over the training pairs done, fractional.
        pairs_seen: Training pairs used so far.
        beta: The loss's beta in this step.
        learning_rate: The optimiser's learning rate in this step.
        values: The step's metrics by TRL's keys (`loss`, `rewards/margins`, ...) and ours
            (`logratios/chosen`, `logratios/chosen_negative`, ...); on a step with an evaluation
            `eval/...`, `kl/...`, `score/...` too. See `metrics.py` for the list. The same on every
            machine and in every repetition that is bit for bit the same.
        timing: `seconds`, `pairs_per_second`, `tokens_per_second`, `peak_memory_gb`, and
            `evaluation_seconds` where there was one: never the same twice, so kept apart and in
            a file of their own.
    """

    step: int
    epoch: float
    pairs_seen: int
    beta: float
    learning_rate: float
    values: Mapping[str, float]
    timing: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        """A field or a metric by its logged name."""
        return getattr(self, key) if key in STEP_FIELDS else self.values[key]

    def get(self, key: str) -> float | None:
        """As indexing; none where the step has no such metric."""
        return getattr(self, key) if key in STEP_FIELDS else self.values.get(key)

    def as_dict(self) -> dict[str, float]:
        """One flat dictionary, the line of `metrics.jsonl`: fields, then metrics; no timing."""
        return {name: getattr(self, name) for name in STEP_FIELDS} | dict(self.values)

    @classmethod
    def from_dict(cls, line: Mapping[str, float], timing: Mapping[str, float] | None = None):
        """The record of a line of `metrics.jsonl`."""
        values = {_now(key): value for key, value in line.items() if key not in STEP_FIELDS}
        return cls(**{name: line[name] for name in STEP_FIELDS}, values=values, timing=timing or {})


@dataclass(frozen=True)
class SampleRecord:
    """Answers of reference and policy to one held-out prompt, at one step.

    Attributes:
        step: Optimiser steps done when the policy answered.
        prompt: The prompt as text.
        reference: The reference's greedy answer.
        policy: The policy's greedy answer.
        reference_score: Ground-truth score of the reference's answer, where there is one.
        policy_score: The same of the policy's.
        reference_cut: Whether the reference's answer was cut at the length limit.
        policy_cut: The same of the policy's.
    """

    step: int
    prompt: str
    reference: str
    policy: str
    reference_score: float | None = None
    policy_score: float | None = None
    reference_cut: bool = False
    policy_cut: bool = False

    @property
    def shown(self) -> tuple[str, str]:
        """Both answers for people, the reference's first: one that was cut says so."""
        return shown(self.reference, self.reference_cut), shown(self.policy, self.policy_cut)

    def as_dict(self) -> dict:
        """The line of `samples.jsonl`."""
        return asdict(self)
