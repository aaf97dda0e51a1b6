"""The ground truth of the data set `places`: does an answer put the city into its country?

The rows come from `assets/data/places` (facts: GeoNames, CC BY 4.0; made by
`assets/scripts/make_places.py`). The score reads the text, not the model, so it measures what DPO
was meant to teach: a model can lower its loss on these pairs and still answer worse.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import defaultdict

from dpo_lab.data.assets import asset_path

_DENIAL = re.compile(
    r"\b(?:not (?:\w+ )?exist|doesn't (?:\w+ )?exist|didn't (?:\w+ )?exist|no longer exists?"
    r"|never existed|non-?existent|no such (?:city|town|place)"
    r"|(?:no|not an?|isn't an?) (?:real|actual|existing|known) (?:city|town|place)"
    r"|no (?:city|town|place) (?:called|named|by)|(?:fictional|fictitious|imaginary) (?:city|town"
    r"|place))\b",
    re.IGNORECASE,
)

# Names in which the name of a country stands for something else.
_NOT_COUNTRIES = (
    "Central America; Latin America; North America; South America; New England; New Guinea;"
    "New Jersey; New Mexico; New South Wales; Inner Mongolia; State of Mexico; Gulf of Guinea;"
    "Gulf of Mexico; Gulf of Oman; Gulf of Thailand; Sea of Japan; East China Sea; South China Sea;"
    "Strait of Gibraltar; Taiwan Strait; Korea Strait; Mozambique Channel; Panama Canal;"
    "Congo River; Gambia River; Jordan River; Niger River; Paraguay River; Senegal River;"
    "Uruguay River; Niger Delta; Niger State; Congo Basin; Jordan Valley; Lake Chad; Lake Malawi"
)


def reward(prompt: str, response: str) -> float:
    """Judge one answer to "Where is <city>?".

    Countries are found by their names and usual short forms ("USA", "Holland"), as whole words
    ("Nigeria" is not "Niger"); where several fit, the longest counts ("Papua New Guinea" is not
    "Guinea"). Accents and, except in abbreviations, capitals are ignored. A demonym ("a Chinese
    city") names no country. Constituent countries count as the United Kingdom.

    Args:
        prompt: The user's text, one of the 400 questions of the data set.
        response: The assistant's text.

    Returns:
        1.0 if the first country named is the city's own and nothing in the response denies that
        the city exists, else 0.0.

    Raises:
        ValueError: If the prompt is not one of the questions.

    Note:
        The text is matched, not understood: "is not in China" names China.
    """
    country = _country_of().get(prompt.strip())
    if country is None:
        raise ValueError(
            f"prompt={prompt!r}: must be a question of the data set `places`, since only their "
            'answers are known. Ask about one of its cities, such as "Where is Shanghai?".'
        )
    text = _plain(response)
    if _DENIAL.search(text):
        return 0.0
    pattern, countries_by_name = _names()
    for match in pattern.finditer(text):
        if named := countries_by_name.get(match[0].lower()):
            return float(country in named)
    return 0.0


def _plain(text: str) -> str:
    """Drop accents and typographic apostrophes."""
    letters = unicodedata.normalize("NFKD", text.replace("’", "'"))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@functools.cache
def _country_of() -> dict[str, str]:
    """Read the country by prompt, from both splits."""
    folder = asset_path("data/places")
    countries = {}
    for split in ("train", "test"):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            countries[row["prompt"][0]["content"]] = row["country"]
    return countries


@functools.cache
def _names() -> tuple[re.Pattern[str], dict[str, set[str]]]:
    """Read the pattern of everything that looks like a country, and the countries by lower name."""
    text = (asset_path("data/places") / "countries.json").read_text(encoding="utf-8")
    countries_by_name: dict[str, set[str]] = defaultdict(set)
    names = [name.strip() for name in _NOT_COUNTRIES.split(";")]
    for country, accepted in json.loads(text).items():
        for name in accepted:
            countries_by_name[name.lower()].add(country)
            names.append(name)
    # Alternatives are tried in their order, so the longest stands first. "us" is not "US".
    alternatives = [
        re.escape(name) if name.isupper() else f"(?i:{re.escape(name)})"
        for name in sorted(set(names), key=lambda name: (-len(name), name))
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)"), dict(countries_by_name)
