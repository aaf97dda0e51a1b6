"""The interval of a share."""

from __future__ import annotations

import math

Z95 = 1.959964
"""Half-width of a 95 % interval in standard errors."""


def wilson(share: float, n: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share of `n`.

    Source:
        Wilson 1927; at shares near 0 and 1 it stays inside [0, 1].
    """
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return centre - half, centre + half
