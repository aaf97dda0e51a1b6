"""What several tests of widgets look at."""

from __future__ import annotations

import threading

import pytest
from asking import PROMPTS

from dpo_lab.ui.annotator.annotator import Annotator


@pytest.fixture
def open_one(tmp_path):
    """Annotators on a folder of the test's own, closed after it."""
    opened = []

    def make(prompts=PROMPTS, **options) -> Annotator:
        opened.append(Annotator(prompts, session=tmp_path / "mine", **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("dpo-lab")]
