"""MinHash of prompts: a few numbers by which nearly equal texts are found among a million.

Libraries (datasketch, rensa) keep their index in memory, one object a text; here the signatures of
a thousand texts are computed at once, and only a few bytes a text are kept, on disk.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

SHINGLE = 3
"""Words in a shingle."""
Shingle = tuple[str, ...]
_FEWEST, _OFTEN = 200, 0.05
BANDS, ROWS = 32, 4
"""Two texts are compared if all rows of any band agree: with Jaccard similarity s, with
probability 1 - (1 - s^4)^32, which is 0.9998 at 0.7."""

# A sign of a script that is written without spaces is a word.
_WORD = re.compile(r"[\u0e00-\u0e7f\u3041-\u30ff\u3400-\u9fff]|[^\W_]+")
_RANDOM = np.random.default_rng(20)
_FACTORS = _RANDOM.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _RANDOM.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
_MIX = _RANDOM.integers(0, 2**63, max(ROWS, SHINGLE), dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation; the text itself if it has none."""
    return _WORD.findall(text.casefold()) or [text]


def shingles(words: Sequence[str]) -> set[Shingle]:
    """Every three words that follow each other; of a shorter text, all of it."""
    last = max(1, len(words) - SHINGLE + 1)
    return {tuple(words[start : start + SHINGLE]) for start in range(last)}


def template_shingles(texts: Iterable[Sequence[str]]) -> frozenset[Shingle]:
    """Shingles that many texts share, as where all questions stand in one long instruction.

    They say nothing about whether two texts are nearly equal.

    Args:
        texts: Words of each text; of fewer than 200, none is a template.
    """
    texts = list(texts)
    if len(texts) < _FEWEST:
        return frozenset()
    counts = Counter(shingle for words in texts for shingle in shingles(words))
    return frozenset(shingle for shingle, count in counts.items() if count > _OFTEN * len(texts))


def jaccard(
    one: Sequence[str], other: Sequence[str], template: frozenset[Shingle] = frozenset()
) -> float:
    """Shingles that two texts share, over all that either has.

    Args:
        one: Words of a text.
        other: Words of the other.
        template: Shingles that do not count, unless a text has no other.
    """
    sets = [shingles(one), shingles(other)]
    own = [some - template for some in sets]
    a, b = own if all(own) else sets
    return len(a & b) / len(a | b)


def signatures(
    texts: Sequence[Sequence[str]], template: frozenset[Shingle] = frozenset()
) -> np.ndarray:
    """MinHash signatures, `(texts, BANDS * ROWS)`: two agree in a share that estimates `jaccard`.

    Args:
        texts: Words of each text, at least one.
        template: Shingles that do not count, unless a text has no other.

    Source:
        Broder 1997; hashing by multiplication and shift, Dietzfelbinger et al. 1997.
    """
    codes, starts = _shingle_codes(texts)
    if template:
        known, _ = _shingle_codes(list(template))
        own = ~np.isin(codes, known)
        own |= ~np.repeat(np.logical_or.reduceat(own, starts), np.diff(np.r_[starts, len(codes)]))
        starts = np.r_[0, np.cumsum(own)][starts]
        codes = codes[own]
    found = np.empty((len(texts), len(_FACTORS)), dtype=np.uint32)
    for number, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
        mixed = (codes * factor + offset) >> np.uint64(32)
        found[:, number] = np.minimum.reduceat(mixed, starts)
    return found


def _shingle_codes(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each shingle of each text, and where each text's begin."""
    hashed: list[int] = []
    ends = []
    for words in texts:
        codes = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words]
        codes += [0] * (SHINGLE - len(codes))  # a text of one or two words is one shingle
        hashed += codes
        ends.append(len(hashed))
    each = np.asarray(hashed, dtype=np.uint64)
    whole = np.zeros(len(each) - SHINGLE + 1, dtype=np.uint64)
    for place in range(SHINGLE):
        whole += (each[place : place + len(whole)] + np.uint64(1)) * _MIX[place]
        whole ^= whole >> np.uint64(29)
    # Those that reach over a text's end into the next go.
    inside = np.ones(len(each), dtype=bool)
    for back in range(1, SHINGLE):
        inside[np.asarray(ends) - back] = False
    starts = np.r_[0, np.asarray(ends[:-1], dtype=np.int64)]
    return whole[inside[: len(whole)]], starts - (SHINGLE - 1) * np.arange(len(starts))


def band_codes(
    texts: Sequence[Sequence[str]], template: frozenset[Shingle] = frozenset()
) -> np.ndarray:
    """One number for each band of each text's signature, `(texts, BANDS)`."""
    rows = signatures(texts, template).reshape(len(texts), BANDS, ROWS).astype(np.uint64)
    mixed = np.zeros(rows.shape[:2], dtype=np.uint64)
    for row in range(ROWS):
        mixed = (mixed + rows[:, :, row] + np.uint64(1)) * _MIX[row]
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(32)).astype(np.uint32)
