"""What the cache of reference values may and may not give, on a tiny model of several groups."""

import math
import sqlite3

import pytest
import torch
from tiny import make_language_model, shake, some_sequences

from dpo_lab.models.loading import weights_fingerprint
from dpo_lab.models.reference import ReferenceCache, reference_logps
from dpo_lab.models.scoring import Scorer, score_sequences

SEQUENCES = some_sequences(12)
BUDGET = 40
"""Padded tokens a pass: the twelve sequences make several groups."""


@pytest.fixture(scope="module")
def scorer():
    return Scorer(make_language_model())


@pytest.fixture
def cache(tmp_path):
    return ReferenceCache(tmp_path / "cache" / "reference.sqlite")


def ask(scorer, cache, sequences=SEQUENCES, fingerprint="weights", **options):
    return reference_logps(
        scorer, fingerprint, sequences, cache=cache, token_budget=BUDGET, **options
    )


def change(cache, statement):
    with sqlite3.connect(cache.path) as database:
        database.execute(statement)
    database.close()


def test_values_are_the_scorer_s_in_any_order(scorer, cache):
    first, use = ask(scorer, cache)
    assert (use.computed, use.cached, use.probed) == (12, 0, 0)
    torch.testing.assert_close(first, score_sequences(scorer, SEQUENCES), rtol=0, atol=1e-5)
    again, use = ask(scorer, ReferenceCache(cache.path), SEQUENCES[::-1])
    assert (use.computed, use.cached) == (0, 12) and use.probed > 0
    assert torch.equal(first, again.flip(0))


def test_repeats_are_computed_once_and_counted_once(scorer, cache):
    seen = []
    twice = SEQUENCES[:3] + SEQUENCES[1:2] + SEQUENCES[:2]
    values, use = ask(scorer, cache, twice, progress=lambda *counts: seen.append(counts))
    assert use.computed == 3 and seen[-1] == (3, 3)
    assert values[1] == values[3] == values[5] and values[0] == values[4]


def test_without_a_cache_all_is_computed(scorer):
    values, use = ask(scorer, None)
    assert (use.computed, use.cached) == (12, 0)
    torch.testing.assert_close(values, score_sequences(scorer, SEQUENCES), rtol=0, atol=1e-5)


def test_other_weights_another_mask_another_precision_find_nothing(scorer, cache):
    """The mask: ids 5 6 7 8 with the response after two and after three are different sums."""
    split = [((5, 6), (7, 8))]
    late, _ = ask(scorer, cache, split)
    early, use = ask(scorer, cache, [((5, 6, 7), (8,))])
    assert use.computed == 1 and early != late
    assert ask(Scorer(scorer.language_model, "bfloat16"), cache, split)[1].computed == 1
    moved = make_language_model()
    shake(moved.model, 0.1, seed=1)
    moved_print = weights_fingerprint(moved.model)
    assert moved_print != weights_fingerprint(scorer.language_model.model)
    assert ask(Scorer(moved), cache, split, fingerprint=moved_print)[1].computed == 1


def test_values_that_are_not_the_live_model_s_are_refused(scorer, cache):
    ask(scorer, cache)
    moved = make_language_model()
    shake(moved.model, 0.05, seed=1)
    with pytest.raises(ValueError, match="where the model gives"):
        ask(Scorer(moved), cache)  # other weights under one fingerprint
    change(cache, "UPDATE logps SET logp = logp + 0.5")
    with pytest.raises(ValueError, match="where the model gives.*damaged; remove it"):
        ask(scorer, cache)


def test_what_cannot_be_a_cache_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are not log-probabilities " * 50)
    with pytest.raises(ValueError, match=r"notes\.txt: the reference cache cannot be used.*Remove"):
        ReferenceCache(path)
    with pytest.raises(ValueError, match="cannot be used"):
        ReferenceCache(tmp_path)


class Stopped(Exception):
    """The person at the keyboard has had enough."""


def test_an_interrupted_computation_gives_the_same_bits(scorer, cache, tmp_path):
    def stop(done, total):
        if done > 3:
            raise Stopped

    whole, _ = ask(scorer, ReferenceCache(tmp_path / "other.sqlite"))
    with pytest.raises(Stopped):
        ask(scorer, cache, progress=stop)
    values, use = ask(scorer, cache)
    assert use.cached > 3 and use.computed > 0 and use.cached + use.computed == 12
    assert torch.equal(values, whole)
    assert torch.equal(ask(scorer, cache)[0], whole)


def test_a_group_with_a_gap_is_computed_whole(scorer, cache, monkeypatch):
    """Alone, a sequence's value may differ in the last bit from the one it has in its group."""
    passes = []
    logps = Scorer.logps

    def watched(self, batch, tails):
        passes.append(tuple(batch.input_ids.shape))
        return logps(self, batch, tails)

    monkeypatch.setattr(Scorer, "logps", watched)
    whole, _ = ask(scorer, cache)
    groups = set(passes)
    change(cache, "DELETE FROM logps WHERE substr(hex(key), 1, 1) < '8'")
    passes.clear()
    monkeypatch.setattr("dpo_lab.models.reference._probe", lambda *arguments: 0)
    values, use = ask(scorer, cache)
    assert use.cached > 0 and use.computed > 0
    assert passes and set(passes) <= groups
    assert torch.equal(values, whole)


def test_what_is_no_number_is_refused_and_not_kept(cache):
    lm = make_language_model()
    lm.model.model.norm.weight.data[0] = math.nan
    for _ in range(2):
        with pytest.raises(ValueError, match="nan: no loss can be computed.*float32"):
            ask(Scorer(lm), cache)
    with cache._open() as database:
        assert not database.execute("SELECT * FROM logps").fetchall()
