"""What can be seen of a response without reading it: its form, its script, its first words."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

SCRIPTS = (
    ("Latin", "A-Za-zÀ-ɏ"),
    ("Cyrillic", "Ѐ-ӿ"),
    ("Greek", "Ͱ-Ͽ"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Arabic", "\u0600-\u06ff\u0750-\u077f"),
    ("Devanagari", "ऀ-ॿ"),
    ("Bengali", "ঀ-৿"),
    ("Tamil", "\u0b80-\u0bff"),
    ("Thai", "\u0e00-\u0e7f"),
    ("Hangul", "ᄀ-ᇿ가-힣"),
    ("Japanese", "\u3041-\u30ff"),
    ("Han", "㐀-鿿"),
)
NO_SCRIPT = "other"
SCRIPT_NAMES = (*(name for name, _ in SCRIPTS), NO_SCRIPT)
"""Unicode's blocks of letters: a rough sign of the language, which many languages share."""
_LETTERS = [re.compile(f"[{letters}]") for _, letters in SCRIPTS]
_LATIN, _JAPANESE, _HAN, _OTHER = 0, 10, 11, len(SCRIPTS)
_LOOKED_AT = 500

BUCKETS = 1 << 16
"""First words are counted in so many buckets, by their hash."""


@dataclass(frozen=True)
class Form:
    """Something about a response that a rule can look at, and nothing else.

    Attributes:
        measure: Of a response's text, a number.
        more: The rule that picks the response with more of it, in words.
        less: The rule that picks the other.
    """

    measure: Callable[[str], float]
    more: str
    less: str


def _count(pattern: str) -> Callable[[str], float]:
    found = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    return lambda text: len(found.findall(text))


_REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able)|I (?:can(?:['’]t|not)|won['’]t)|as an AI\b"
    r"|I apologi[sz]e|I must decline|not appropriate|against my (?:guidelines|programming))",
    re.IGNORECASE,
)
_ENDS = tuple(".!?…。！？।\"'”’)]`}")

FORMS: dict[str, Form] = {
    "length": Form(len, "longer", "shorter"),
    "markdown": Form(
        _count(r"^#{1,6} |\*\*[^*\n]+\*\*|```|`[^`\n]+`|^\|.*\|$"),
        "more markdown",
        "less markdown",
    ),
    "list": Form(_count(r"^\s*(?:[-*•+]|\d+[.)])\s"), "more list items", "fewer list items"),
    "refusal": Form(
        lambda text: bool(_REFUSAL.search(text[:_LOOKED_AT])),
        "says sorry or cannot",
        "does not say sorry or cannot",
    ),
    "question": Form(lambda text: text.count("?"), "more question marks", "fewer question marks"),
    "exclamation": Form(
        lambda text: text.count("!"), "more exclamation marks", "fewer exclamation marks"
    ),
    "ending": Form(
        lambda text: text.rstrip().endswith(_ENDS), "ends with its sentence", "breaks off"
    ),
}
"""What rules look at."""


def script_of(text: str) -> int:
    """The script of most letters at a text's beginning, as an index of `SCRIPT_NAMES`."""
    text = text[:_LOOKED_AT]
    if text.isascii():
        return _LATIN if any(map(str.isalpha, text)) else _OTHER
    counts = [len(letters.findall(text)) for letters in _LETTERS]
    if counts[_JAPANESE] * 10 > counts[_HAN]:  # Japanese mixes both
        counts[_JAPANESE] += counts[_HAN]
    most = max(counts)
    return counts.index(most) if most else _OTHER


def first_words(text: str) -> str:
    """The first two words, in small letters."""
    return " ".join(text[:_LOOKED_AT].split(None, 2)[:2]).casefold()[:40]


def bucket_of(words: str) -> int:
    """The bucket in which first words are counted."""
    return zlib.crc32(words.encode("utf-8", "surrogatepass")) % BUCKETS
