"""The methods of training that a run can use, what they need, and which settings they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dpo_lab.objective.policy_gradient import GRPO, RLOO, PolicyGradient

Method = Literal["dpo", "online-dpo", "rloo", "grpo", "sft"]
TRUTH = "truth"
"""The reward that the data set itself defines."""
IN_PYTHON = "given in Python"
"""A run's `reward` where `prepare` was given something else that rates answers."""


@dataclass(frozen=True)
class MethodFacts:
    """What a method is.

    Attributes:
        title: Its name for people.
        trains_on: What it learns from, in words.
        on_policy: Whether it samples answers of the policy and needs their reward.
        gradient: How it estimates the gradient of J, if it is a policy gradient.
        samples: Answers to each prompt by default; 0 if it samples none.
    """

    title: str
    trains_on: str
    on_policy: bool = False
    gradient: PolicyGradient | None = None
    samples: int = 0


METHODS: dict[str, MethodFacts] = {
    "dpo": MethodFacts("DPO", "the pairs"),
    "online-dpo": MethodFacts("online DPO", "labelled pairs of its own answers", True, samples=2),
    "rloo": MethodFacts("RLOO", "rewards of its own answers", True, RLOO, 4),
    "grpo": MethodFacts("GRPO", "rewards of its own answers", True, GRPO, 4),
    "sft": MethodFacts("SFT on chosen", "the chosen answers"),
}
SWITCHES = {
    "baseline": "baseline",
    "kl_estimator": "estimator",
    "kl_place": "place",
    "kl_unit": "unit",
    "divide_by_deviation": "deviation",
}
"""Settings of policy gradients, and what they are called in `PolicyGradient`."""
ROUTERS = "router_aux_loss_coef"
OF_PAIRS = (
    "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting",
    ROUTERS,
)  # fmt: skip
"""Settings of a loss of pairs, which a policy gradient has not."""


def policy_gradient_of(settings: Mapping[str, Any]) -> PolicyGradient:
    """How a run estimates the gradient of J: its method's way, with the switches that are given.

    Args:
        settings: Of a `TrainConfig`, by name.
    """
    given = {name: settings[setting] for setting, name in SWITCHES.items()}
    start = METHODS[settings["method"]].gradient or RLOO
    return replace(start, **{name: value for name, value in given.items() if value is not None})


def check_method(settings: Mapping[str, Any]) -> None:
    """Raise unless the settings go with the method.

    Args:
        settings: Of a `TrainConfig`, by name.

    Raises:
        ValueError: Naming the setting and what to do.
    """
    method = settings["method"]
    facts = METHODS[method]
    if facts.gradient is None:
        for name in SWITCHES:
            if settings[name] is not None:
                raise ValueError(
                    f"{name}={settings[name]}: method {method} is no policy gradient. Use "
                    "--method rloo, or leave it out."
                )
    if facts.gradient is not None or method == "sft":
        losses = ("sigmoid", "sft") if method == "sft" else ("sigmoid",)
        unset = (None, "reverse_kl")
        balanced = facts.gradient is None  # the routers of the policy, whatever the pairs' loss
        given = [
            name
            for name in OF_PAIRS
            if settings[name] is not False
            and settings[name] not in unset
            and not (name == "label_smoothing" and settings[name] == 0)
            and not (balanced and name == ROUTERS)
        ]
        if settings["loss"] not in losses:
            given = ["loss"]
        if given:
            raise ValueError(
                f"{given[0]}={settings[given[0]]}: method {method} trains on {facts.trains_on} "
                "and has no loss of pairs. Leave it out, or use --method dpo."
            )
    _check_samples(settings, facts)


def _check_samples(settings: Mapping[str, Any], facts: MethodFacts) -> None:
    method, samples = settings["method"], settings["samples"]
    if not facts.on_policy:
        for name, unset in (("samples", None), ("reward", TRUTH)):
            if settings[name] != unset:
                raise ValueError(
                    f"{name}={settings[name]}: method {method} trains on {facts.trains_on} and "
                    "samples nothing. Use --method rloo or online-dpo, or leave it out."
                )
        return
    if facts.gradient is None and samples not in (None, 2):
        raise ValueError(
            f"samples={samples}: online DPO compares 2 answers to a prompt. Leave it out."
        )
    how = policy_gradient_of(settings)
    if samples == 1 and (how.baseline != "none" or how.deviation):
        raise ValueError(
            "samples=1: there are no other answers to compare with. Give at least 2, or use "
            "--baseline none."
        )
