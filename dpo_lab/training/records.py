"""Records of a run: metrics of each step, and sample answers, as plain floats and strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache

from dpo_lab.data.sampled import shown

# Former metric keys, which older runs were written with, and their present names.
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
        for prefix in ("", "eval/"):
            if key.startswith(prefix + former):
                return prefix + name + key.removeprefix(prefix + former)
    return key


STEP_FIELDS = ("step", "epoch", "pairs_seen", "beta", "learning_rate")


@dataclass(frozen=True)
class StepRecord:
    """State of a run after an optimiser step (step 0: before the first step, evaluation only).

    Attributes:
        step: Optimiser steps done.
        epoch: Passes over the training pairs done, fractional.
        pairs_seen: Training pairs used so far.
        beta: The loss's beta in this step.
        learning_rate: The optimiser's learning rate in this step.
        values: The step's metrics under TRL's keys (`loss`, `rewards/margins`, ...) and ours
            (`logratios/chosen`, `logratios/chosen_negative`, ...); after an evaluation also
            `eval/...`, `kl/...`, `score/...`. See `metrics.py` for the list. Reproducible on the
            CPU (see `runs.py`), unlike `timing`.
        timing: `seconds`, `pairs_per_second`, `tokens_per_second`, `peak_memory_gb`, and after an
            evaluation `evaluation_seconds`; never the same twice, so stored separately, in their
            own file.
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
        """Like indexing, but None if the step has no such metric."""
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
        reference_score: Ground-truth reward of the reference's answer, if there is one.
        policy_score: The same for the policy's answer.
        reference_cut: Whether the reference's answer was cut at the length limit.
        policy_cut: The same for the policy's answer.
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
        """Both answers as shown to people, the reference's first; a cut answer is marked."""
        return shown(self.reference, self.reference_cut), shown(self.policy, self.policy_cut)

    def as_dict(self) -> dict:
        """The line of `samples.jsonl`."""
        return asdict(self)
