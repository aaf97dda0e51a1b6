from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.ui.report import page as report
from dpo_lab.ui.report.page import SHOWN_SAMPLES, write_report

ATTACK = "<img src=x onerror=alert(1)>"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;"


class _Page(HTMLParser):
    """Elements, the text of each kind of element, and scripts of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open = ("", {})
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = (tag, dict(attrs))
        self.elements.append(self._open)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        tag, attrs = self._open
        if tag == "script" and self.scripts and data.strip():
            self.scripts[-1] = (attrs, self.scripts[-1][1] + data)
        elif tag not in ("script", "style"):
            self.texts.append((tag, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {}) if tag in ("script", "style") else self._open

    def of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag and text.strip()]

    @property
    def text(self) -> str:
        """Without the line breaks between elements."""
        return "".join(text for _, text in self.texts).replace("\n", "")


def _policy(page: _Page) -> str:
    (policy,) = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    return policy


RECORDS = [
    StepRecord(0, 0.0, 0, 0.1, 1e-3, {"eval/loss": math.log(2), "kl/per_token": 0.0}),
    StepRecord(1, 0.5, 16, 0.1, 1e-3, {"loss": 0.5}),
    StepRecord(2, 1.0, 32, 0.3, 1e-3, {"loss": 0.25, "eval/loss": 0.3}),
]
ARGUMENTS = {
    "title": "micro on reviews",
    "config": {"model": "micro", "data": "reviews", "loss": "sigmoid", "beta": 0.1},
    "records": RECORDS,
    "samples": [
        SampleRecord(0, "old prompt", "old reference", "old policy"),
        SampleRecord(2, "the acting felt", "dull", "  two spaces\nand a line", -0.5, 1.25),
    ],
    "summary": {"Accuracy": {"before": 0.0, "after": 0.8906, "text": "n = 512"}},
    "environment": {"torch": "2.13.0", "weights": {"origin": "assets"}},
    "start_loss": math.log(2),
}


def _write(folder: Path, **changes: object) -> str:
    path = write_report(folder / "report.html", **(ARGUMENTS | changes))
    return path.read_text(encoding="utf-8")


def test_the_page_shows_what_was_run(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path))
    assert page.of("h1") == page.of("title") == ["micro on reviews"]
    assert (
        "Model micro, data reviews, loss sigmoid, β 0.1 → 0.3 at step 2, "
        "2 optimiser steps on 32 pairs (1.00 epochs)."
    ) in page.text


@pytest.mark.parametrize(
    "method, said",
    [
        (
            "rloo",
            "data reviews, method rloo, β 0.1 → 0.3 at step 2, 2 optimiser steps on 32 prompts",
        ),
        ("online-dpo", "data reviews, method online-dpo, loss sigmoid, β 0.1"),
        ("sft", "method sft, β 0.1 → 0.3 at step 2, 2 optimiser steps on 32 pairs"),
    ],
)
def test_another_method_is_named_with_what_it_trains_on(tmp_path: Path, method, said) -> None:
    config = {**ARGUMENTS["config"], "method": method}
    assert said in _Page(_write(tmp_path, config=config)).text


def test_a_tile_goes_from_before_to_after(tmp_path: Path) -> None:
    summary = {
        "Score": {"before": -0.4, "after": 1.694, "text": "95 % interval 1.5 to 1.9"},
        "KL": {"before": 0.0, "after": math.nan},
    }
    page = _Page(_write(tmp_path, summary=summary))
    assert page.of("h3") == ["Score", "KL"]
    assert "Score−0.4→1.6995 % interval 1.5 to 1.9" in page.text
    assert "KL0→–" in page.text


def test_samples_are_those_of_the_last_step_with_their_white_space(tmp_path: Path) -> None:
    source = _write(tmp_path)
    page = _Page(source)
    assert page.of("td")[:4] == ["the acting felt", "dull", "  two spaces\nand a line", "−0.5 → "]
    assert "old" not in page.text
    assert re.search(r"td \{[^}]*white-space: pre-wrap", source)


def test_an_empty_answer_is_said_to_be_empty_and_no_score_gives_no_column(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path, samples=[SampleRecord(2, "p", "r", "")]))
    assert page.of("em") == ["(empty)"]
    assert "Score" not in page.of("th")
    assert "Score" in _Page(_write(tmp_path)).of("th")


def test_many_samples_are_all_there_with_the_rest_folded(tmp_path: Path) -> None:
    samples = [SampleRecord(2, f"prompt {i}", "r", "p") for i in range(SHOWN_SAMPLES + 3)]
    page = _Page(_write(tmp_path, samples=samples))
    assert [text for text in page.of("td") if text.startswith("prompt")] == [
        f"prompt {i}" for i in range(SHOWN_SAMPLES + 3)
    ]
    assert page.of("summary") == ["3 more", "Config", "Environment"]


def test_config_and_environment_are_folded_and_complete(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path))
    assert page.of("summary") == ["Config", "Environment"]
    assert "weights.originassets" in page.text and "beta0.1" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"title": ATTACK},
        {"config": {"model": ATTACK}},
        {"config": {"data": ATTACK}},
        {"config": {"beta": ATTACK}},
        {"config": {ATTACK: 1}},
        {"config": {"nested": {"list": [ATTACK]}}},
        {"environment": {"origin": ATTACK}},
        {"samples": [SampleRecord(2, ATTACK, "r", "p")]},
        {"samples": [SampleRecord(2, "q", ATTACK, "p")]},
        {"samples": [SampleRecord(2, "q", "r", ATTACK)]},
        {"summary": {ATTACK: {"before": 0, "after": 1}}},
        {"summary": {"a": {"before": 0, "after": 1, "text": ATTACK}}},
    ],
    ids=lambda changes: str(changes).replace(ATTACK, "X")[:60],
)
def test_markup_in_any_text_is_shown_and_never_parsed(tmp_path: Path, changes: dict) -> None:
    source = _write(tmp_path, **changes)
    assert ATTACK not in source
    assert ESCAPED in source
    page = _Page(source)
    assert ATTACK in page.text
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_an_end_of_script_in_a_title_ends_no_script(tmp_path: Path) -> None:
    title = "</script></title><script>alert(1)</script>"
    page = _Page(_write(tmp_path, title=title, config={"model": title}))
    assert len(page.scripts) == 3
    assert "<" not in page.scripts[0][1]


def test_the_page_names_no_other_host_and_may_not_reach_one(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path))
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert not attrs.get(name), (tag, name)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert "default-src 'none'" in _policy(page)
    assert "http" not in _policy(page)


def test_the_prompts_are_told_for_what_they_are_and_what_the_uprights_mark(tmp_path: Path) -> None:
    assert "Greedy answers to 1 held-out prompt after step 2." in _Page(_write(tmp_path)).text
    source = _write(tmp_path, environment={"prompt_kind": f"{ATTACK} prompt"})
    assert f"Greedy answers to 1 {ESCAPED} prompt after" in source and ATTACK not in source
    assert "Dotted uprights: beta or the learning rate was changed." in _Page(source).text


def test_only_the_two_scripts_of_the_page_may_run(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path))
    data, *scripts = page.scripts
    assert data[0]["type"] == "application/json"
    for _, source in scripts:
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in _policy(page)
    rules = dict(rule.strip().split(" ", 1) for rule in _policy(page).split(";"))
    assert len(rules["script-src"].split()) == len(scripts) == 2


def test_plotly_is_in_the_file_once_and_the_figure_has_the_runs_numbers(tmp_path: Path) -> None:
    source = _write(tmp_path)
    assert source.count(report.get_plotlyjs()[:2000]) == 1
    payload = json.loads(_Page(source).scripts[0][1])
    assert payload["config"]["showSendToCloud"] is False
    (loss,) = [trace for trace in payload["figure"]["data"] if trace["meta"] == "loss"]
    assert loss["y"]["dtype"] == "f4"
    # 0.5 and 0.25 in little-endian float32.
    assert base64.b64decode(loss["y"]["bdata"]).hex() == "0000003f0000803e"


def test_pages_of_a_folder_share_one_copy_of_plotly_and_are_small(tmp_path: Path) -> None:
    values = {"loss": 0.6, "rewards/margins": 0.1, "rewards/chosen": 0.2, "rewards/rejected": 0.1}
    records = [StepRecord(step, step / 16, step, 0.1, 1e-3, values) for step in range(1, 20_001)]
    library = report.shared_plotly(tmp_path)
    assert library.read_text() == report.get_plotlyjs()
    written = library.stat().st_mtime_ns
    for run in ("one", "two & a half"):
        source = _write(tmp_path / run, records=records, library=report.shared_plotly(tmp_path))
        assert len(source.encode()) < 1_000_000
        page = _Page(source)
        assert page.scripts[1][0]["src"] == f"../{library.name}"
        rules = dict(rule.strip().split(" ", 1) for rule in _policy(page).split(";"))
        digest = base64.b64encode(hashlib.sha256(page.scripts[-1][1].encode()).digest()).decode()
        assert rules["script-src"] == f"'self' file: 'sha256-{digest}'"
        assert {rules[name] for name in ("default-src", "form-action", "base-uri")} == {"'none'"}
    assert library.stat().st_mtime_ns == written
    library.write_text("half")
    assert report.shared_plotly(tmp_path).read_text() == report.get_plotlyjs()


def test_a_folder_that_refuses_the_copy_gets_it_inside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert report.shared_plotly(tmp_path / "file") is None


def test_both_themes_are_styled(tmp_path: Path) -> None:
    source = _write(tmp_path)
    assert "@media (prefers-color-scheme: dark)" in source
    assert "color-scheme: light dark" in source


def test_the_file_is_replaced_in_one_go_and_nothing_else_is_left(tmp_path: Path) -> None:
    first = _write(tmp_path / "new" / "run")
    second = _write(tmp_path / "new" / "run", title="another")
    assert first != second and "another" in second
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_former_report_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = _write(tmp_path)
    seen = []

    def broken(source: Path, target: Path) -> None:
        seen.append((Path(source).parent, Path(source) != Path(target), Path(source).exists()))
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path / "report.html", **(ARGUMENTS | {"title": "another"}))
    assert seen == [(tmp_path, True, True)]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == former


def test_a_lone_surrogate_in_an_answer_does_not_lose_the_report(tmp_path: Path) -> None:
    source = _write(tmp_path, samples=[SampleRecord(2, "p", "r", "half \ud83d emoji")])
    assert "half ? emoji" in source


def test_a_run_without_records_or_samples_still_gives_a_page(tmp_path: Path) -> None:
    nothing = {"records": [], "samples": [], "summary": {}, "config": {}, "environment": {}}
    page = _Page(_write(tmp_path, **nothing))
    assert page.of("h1") == ["micro on reviews"]
    assert page.of("h2") == ["Training"]
