"""What a page that is written may do: run its own scripts, known by their digests."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable


def content_policy(scripts: Iterable[str], sources: str = "") -> str:
    """The page's own policy, as an element of its head.

    It lets the page run these scripts, fetch nothing and send no form. It cannot keep a person
    from following a link.

    Args:
        scripts: Texts of the scripts in the page.
        sources: Where scripts may also come from, in the policy's own words.
    """
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join([*sources.split(), *(f"'sha256-{digest}'" for digest in digests)])
    return (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}; "
        "form-action 'none'; base-uri 'none'\">"
    )


def scripts_of(page: str) -> list[str]:
    """Texts of the scripts in a page."""
    return re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
