"""Checks that the settings of a run go with its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.objective.registry import Loss, all_options


def check_loss(settings: Mapping[str, Any], loss: Loss) -> None:
    """Raise unless the loss takes the settings that are given for it.

    Args:
        settings: Of a `TrainConfig`, by name.
        loss: The loss.

    Raises:
        ValueError: Naming the setting and what to do.
    """
    name, ld_alpha = settings["loss"], settings["ld_alpha"]
    for option in all_options():
        unset = (None, 0) if option == "label_smoothing" else (None, "reverse_kl")
        if settings[option] not in unset and option not in loss.options:
            raise ValueError(
                f"{option}={settings[option]}: the loss {name!r} takes none. "
                "Use a loss that does ('dpo-lab losses' lists them), or leave it out."
            )
    if ld_alpha is not None and not 0 <= ld_alpha <= 1:
        raise ValueError(f"ld_alpha={ld_alpha}: must be in [0, 1]; 1 means no weighting.")
    if ld_alpha is not None and loss.uses_lengths:
        raise ValueError(
            f"ld_alpha={ld_alpha}: the loss {name!r} divides by the number of tokens, so "
            "down-weighting some of them would make long answers look better. Use a loss that sums "
            "over tokens, or leave it out."
        )
    coefficient, divergence = settings["f_alpha_divergence_coef"], settings["f_divergence_type"]
    if coefficient is not None and divergence != "alpha_divergence":
        raise ValueError(
            f"f_alpha_divergence_coef={coefficient}: {divergence} has none. Use "
            "--f-divergence-type alpha_divergence (f_divergence_type='alpha_divergence'), or leave "
            "it out."
        )
    if loss.unpaired:
        _check_unpaired(settings)
    if loss.uses_scores and settings["method"] == "online-dpo":
        raise ValueError(
            f"loss={name!r}: needs scores of the data's responses, and online DPO compares answers "
            "of the policy. Use --method dpo, or another loss."
        )
    if settings["tie_weight"] and loss.couples_pairs:
        raise ValueError(
            f"tie_weight={settings['tie_weight']:g}: a value of the loss {name!r} belongs to no "
            "single pair, so a tie cannot be weighted. Leave ties out (tie_weight=0)."
        )
    if settings["use_weighting"] and loss.couples_pairs:
        raise ValueError(
            f"use_weighting=True: the loss {name!r} sorts the batch, so a value belongs to no "
            "single pair and cannot be weighted. Use another loss."
        )


def _check_unpaired(settings: Mapping[str, Any]) -> None:
    name = settings["loss"]
    if settings["method"] != "dpo":
        raise ValueError(
            f"loss={name!r}: trains on the data's responses, each good or bad, and method "
            f"{settings['method']} on others. Use --method dpo, or another loss."
        )
    off = {"ld_alpha": None, "use_weighting": False, "pair_up": None, "tie_weight": 0}
    for setting, unset in off.items():
        if settings[setting] != unset:
            raise ValueError(
                f"{setting}={settings[setting]}: needs pairs, and the loss {name!r} is one of "
                "single responses. Leave it out, or use a loss of pairs."
            )
