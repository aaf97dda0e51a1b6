"""No bar of transformers in a notebook's output, whoever else is loading."""

import threading

import pytest
from transformers.utils import logging as transformers_logging

from dpo_lab.models.loading import load_model


@pytest.fixture(autouse=True)
def bars_are_shown():
    transformers_logging.enable_progress_bar()
    yield
    assert transformers_logging.is_progress_bar_enabled()


def test_a_model_is_loaded_without_a_bar(capfd):
    load_model("micro")
    assert "Loading weights" not in capfd.readouterr().err


def test_one_threads_end_brings_no_bars_back_into_anothers_loading(monkeypatch):
    """The second model is loaded while the first is, and the first is done before it."""
    module = "dpo_lab.models.loading._load_tokenizer"
    from dpo_lab.models import loading

    load_tokenizer, seen = loading._load_tokenizer, []
    first_is_in, first_is_out, second_is_in = (threading.Event() for _ in range(3))

    def stopped(path, **options):
        if threading.current_thread().name == "first":
            first_is_in.set()
            assert second_is_in.wait(60)
        else:
            second_is_in.set()
            assert first_is_out.wait(60)
            seen.append(transformers_logging.is_progress_bar_enabled())
        return load_tokenizer(path, **options)

    monkeypatch.setattr(module, stopped)

    def first():
        load_model("micro")
        first_is_out.set()

    def second():
        assert first_is_in.wait(60)
        load_model("micro")

    threads = [threading.Thread(target=f, name=f.__name__) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert seen == [False]
