"""A loss and its options as short text, from plain settings; for tables, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OPTIONS = {
    "label_smoothing": 0,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": None,
    "discopop_tau": None,
    "dpop_lambda": None,
    "simpo_gamma": None,
    "cpo_alpha": None,
}
"""Options of losses, each with the value at which it has no effect."""
LAST_OPTION = "cpo_alpha"
"""The last of them among the settings: options of further losses come after it."""


def loss_words(settings: Mapping[str, Any]) -> str:
    """The loss and the options that change it, as shown in a table of runs.

    Args:
        settings: As in `config.json`; missing settings count as not given.
    """
    options = {name: settings.get(name) for name in (*_OPTIONS, *_further(settings))}
    words = [
        f"{name} {value:g}" if isinstance(value, float) else str(value)
        for name, value in options.items()
        if value is not None and value != _OPTIONS.get(name)
    ]
    ld_alpha = settings.get("ld_alpha")
    words += [f"ld_alpha {ld_alpha:g}"] if ld_alpha is not None else []
    balance = settings.get("router_aux_loss_coef")
    words += [f"router {balance:g}"] if balance is not None else []
    words += ["WPO"] * bool(settings.get("use_weighting"))
    method = settings.get("method", "dpo")
    if method in ("rloo", "grpo"):
        return ", ".join([method, *_switches(settings)])
    loss = ", ".join([settings["loss"], *words])
    sampled = ", ".join([f"{method}: {loss}", *_switches(settings)])
    return {"dpo": loss, "sft": "sft"}.get(method, sampled)


def _switches(settings: Mapping[str, Any]) -> list[str]:
    """What is unlike the method's defaults, and the reward if it is a model's."""
    names = ("samples", "baseline", "kl_estimator", "kl_place", "kl_unit", "divide_by_deviation")
    words = [f"{name} {settings[name]}" for name in names if settings.get(name) is not None]
    reward = settings.get("reward", "truth")
    return words + [f"reward {Path(reward).name}"] * (reward != "truth")


def _further(settings: Mapping[str, Any]) -> list[str]:
    """Options of losses added later: the settings between `LAST_OPTION` and `steps`."""
    names = list(settings)
    if not {LAST_OPTION, "steps"} <= set(names):
        return []
    return names[names.index(LAST_OPTION) + 1 : names.index("steps")]
