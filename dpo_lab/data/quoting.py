"""Messages of other libraries as parts of one's own sentence."""

from __future__ import annotations

import re


def shortened(error: object, most: int = 300) -> str:
    """As many whole sentences of a message as fit, on one line, without the last full stop.

    Args:
        error: An exception or a text.
        most: Letters; a first sentence that is longer ends after a word, with an ellipsis.
    """
    kept = ""
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(str(error).split())):
        longer = f"{kept} {sentence}".strip()
        if len(longer) > most:
            break
        kept = longer
    if not kept:
        return " ".join(str(error).split())[:most].rpartition(" ")[0] + " …"
    return kept.rstrip(".")
