"""The micro world: three-word verdicts on films, with a ground-truth reward of their words.

Prompts are such as "the acting felt"; responses have one to three words. The reward is a plain
function of the words, and preferences are drawn from Bradley-Terry with it, so that the optimum of
the DPO loss is finite and known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from random import Random

VALENCE = {
    "superb": 2.0, "great": 1.5, "strong": 1.2, "good": 1.0, "warm": 0.7, "nice": 0.5, "fine": 0.2,
    "plain": -0.2, "flat": -0.6, "dull": -1.0, "weak": -1.2, "bad": -1.5, "awful": -2.0,
}  # fmt: skip
"""What an adjective is worth by itself."""
INTENSITY = {"very": 1.5, "really": 1.3, "rather": 0.8, "slightly": 0.4}
"""What an adverb multiplies the next adjective by."""
NEGATION = {"not": -0.5}
"""Negation turns the next adjective around and halves it: "not bad" is less than "good"."""
CONNECTORS = ("and", "but")
ASPECTS = {
    "acting": 0.2, "plot": -0.6, "music": 0.7, "ending": -0.9, "pacing": -0.4, "dialogue": -0.2,
    "editing": 0.0, "camera": 0.5, "story": -0.3, "finale": -0.7,
}  # fmt: skip
"""How kindly the corpus speaks of each aspect: the tilt of its adjectives, a log-odds a valence."""
VERBS = ("felt", "was", "seemed")

WORDS = ("the", *ASPECTS, *VERBS, *VALENCE, *INTENSITY, *NEGATION, *CONNECTORS)
"""Every word of the micro world, in the order of the micro model's vocabulary."""
PROMPTS = tuple(f"the {aspect} {verb}" for aspect in ASPECTS for verb in VERBS)
HELD_OUT_PROMPTS = tuple(
    f"the {aspect} {VERBS[index % 3]}" for index, aspect in enumerate(ASPECTS) if index % 2
)
MAX_WORDS = 3
"""Words of a response; what comes after them earns nothing."""


def reward(prompt: str, response: str) -> float:
    """Ground-truth reward of a response; the same for every prompt.

    The first `MAX_WORDS` words are read, from left to right. Each adjective adds its valence times
    the factors of the adverbs and negations since the last adjective or connector; a factor without
    an adjective adds nothing, and so does any other word. "very good" is 1.5, "not very good"
    -0.75, "dull but warm" -0.3; "superb but superb and superb" is worth its first three words, 4.

    Args:
        prompt: Not used; every score function takes it.
        response: Any words, separated by white space.

    Returns:
        The reward, between -6 and 6.
    """
    words = response.split()
    return _worth(response if len(words) <= MAX_WORDS else " ".join(words[:MAX_WORDS]))


@lru_cache(maxsize=1 << 16)
def _worth(response: str) -> float:
    """The reward; kept, since the exact frontier asks for every response to every prompt."""
    total, factor = 0.0, 1.0
    for word in response.split():
        if word in VALENCE:
            total += factor * VALENCE[word]
            factor = 1.0
        elif word in CONNECTORS:
            factor = 1.0
        else:
            factor *= INTENSITY.get(word, NEGATION.get(word, 1.0))
    return total


def sample_response(prompt: str, rng: Random) -> str:
    """Draw a verdict as the corpus has them: the adjectives tilted by the prompt's aspect.

    Args:
        prompt: One of `PROMPTS`.
        rng: Source of randomness.
    """
    tilt = ASPECTS[prompt.split()[1]]
    adjective = _adjective(tilt, rng)
    shape = rng.random()
    if shape < 0.35:
        return adjective
    if shape < 0.60:
        return f"{rng.choice(tuple(INTENSITY))} {adjective}"
    if shape < 0.70:
        return f"not {adjective}"
    if shape < 0.76:
        return f"not {rng.choice(tuple(INTENSITY))} {adjective}"
    connector = "and" if shape < 0.88 else "but"
    agrees = connector == "and"
    while True:
        other = _adjective(tilt, rng)
        if other != adjective and (VALENCE[other] * VALENCE[adjective] > 0) == agrees:
            return f"{adjective} {connector} {other}"


def _adjective(tilt: float, rng: Random) -> str:
    weights = [math.exp(tilt * valence - 0.3 * abs(valence)) for valence in VALENCE.values()]
    return rng.choices(tuple(VALENCE), weights)[0]


def sample_corpus(rows: int, seed: int) -> list[tuple[str, str]]:
    """`(prompt, response)` examples for supervised fine-tuning, over every prompt.

    Args:
        rows: How many.
        seed: Seed of the draw.
    """
    rng = Random(seed)
    prompts = [rng.choice(PROMPTS) for _ in range(rows)]
    return [(prompt, sample_response(prompt, rng)) for prompt in prompts]


def sample_pairs(prompts: tuple[str, ...], rows: int, seed: int) -> Iterator[dict[str, str]]:
    """Preference pairs: two different verdicts on one prompt, labelled by Bradley-Terry.

    Args:
        prompts: Prompts to draw from.
        rows: How many pairs.
        seed: Seed of the draw.

    Yields:
        Rows with `prompt`, `chosen`, `rejected`.
    """
    rng = Random(seed)
    for _ in range(rows):
        prompt = rng.choice(prompts)
        first = second = sample_response(prompt, rng)
        while second == first:
            second = sample_response(prompt, rng)
        margin = reward(prompt, first) - reward(prompt, second)
        if rng.random() >= 1 / (1 + math.exp(-margin)):
            first, second = second, first
        yield {"prompt": prompt, "chosen": first, "rejected": second}
