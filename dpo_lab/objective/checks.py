"""Range checks of a loss's settings; each raises a ValueError that says what to do."""

from __future__ import annotations

import math


def check_beta(beta: float) -> None:
    """Refuse a beta that is not a positive finite number."""
    check_positive(
        "beta",
        beta,
        "Larger beta keeps the policy closer to the reference; 0.1 is the paper's default.",
    )


def check_smoothing(label_smoothing: float) -> None:
    """Refuse a share of flipped labels outside [0, 0.5)."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing!r}: must be in [0, 0.5). At 0.5 the labels would "
            "carry no information; give the share of labels that you believe are flipped."
        )


def check_positive(name: str, value: float, advice: str) -> None:
    """Refuse a number that is not positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number > 0. {advice}")


def check_not_negative(name: str, value: float, advice: str) -> None:
    """Refuse a number that is negative or not finite."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number >= 0; {advice}")
