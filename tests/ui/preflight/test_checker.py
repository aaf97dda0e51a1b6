"""The widget of a check: what it is told, what it shows, what it says if that fails."""

import re

from dpo_lab import DataChecker

ROWS = [
    {"prompt": f"the acting felt {n}", "chosen": f"great {n}", "rejected": "bad"} for n in range(30)
]


def test_a_click_checks_the_named_data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    checker = DataChecker("nowhere.jsonl", held_out=0.0)
    checker.button.click()
    assert checker.wait() is None and "nowhere.jsonl: no such file" in checker.status.value
    assert not checker.button.disabled
    path.write_text('{"prompt": "a", "chosen": "good", "rejected": "<b>"}\n')
    checker.data.value, checker.max_length.value = str(path), 77
    checker.button.click()
    found = checker.wait()
    assert found.data.rows == 1 and found.config.max_length == 77
    assert str(path) in checker.status.value and "1 rows, 1 pairs" in checker.status.value


def test_data_in_memory_is_shown_with_its_findings_and_figure():
    checker = DataChecker(ROWS + ROWS[:2], held_out=0.0)
    assert checker.data.disabled and not checker.model.disabled
    checker.start()
    found = checker.wait()
    page = re.sub(r"<style>.*?</style>", "", checker._page.value, flags=re.S)
    assert "The same pair again, with the same label" in page and "<b>2</b> of 32" in page
    (figure,) = checker._place.children
    assert sum(checker._figure.data[0].y) == 32
    checker.start()
    checker.wait()
    assert checker._place.children == (figure,), "drawn again, not made again"
    shown = checker._repr_mimebundle_()
    assert "32 rows" in shown["text/plain"] and found.data.rows == 32
