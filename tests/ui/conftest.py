"""What several tests of widgets look at."""

from __future__ import annotations

import threading

import pytest
import torch

from dpo_lab.data.preferences import Preferences, load_preferences
from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.ui.annotator.annotator import Annotator

PROMPTS = ["the acting felt", "the plot was", "the music was"]


@pytest.fixture(scope="module")
def micro() -> LanguageModel:
    torch.set_num_threads(1)
    return load_model("micro", device="cpu")


@pytest.fixture(scope="module")
def reviews() -> Preferences:
    return load_preferences("reviews", limit=100)


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
