"""What the cache of reference values may and may not give, on a tiny model of several groups."""

import logging
import math
import shutil
import sqlite3
from contextlib import closing

import pytest
import torch
from tiny import make_language_model, shake, some_sequences

from dpo_lab.models import reference_cache
from dpo_lab.models.reference import reference_logps
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.models.weights import weights_fingerprint

SEQUENCES = some_sequences(12)
BUDGET = 40
"""Padded tokens a pass: the twelve sequences make several groups."""


@pytest.fixture(scope="module")
def scorer():
    return LogpScorer.probed(make_language_model())


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
    assert ask(LogpScorer.probed(scorer.language_model, "bfloat16"), cache, split)[1].computed == 1
    moved = make_language_model()
    shake(moved.model, 0.1, seed=1)
    moved_print = weights_fingerprint(moved.model)
    assert moved_print != weights_fingerprint(scorer.language_model.model)
    assert ask(LogpScorer.probed(moved), cache, split, fingerprint=moved_print)[1].computed == 1


def test_values_that_are_not_the_live_model_s_are_refused(scorer, cache):
    ask(scorer, cache)
    moved = make_language_model()
    shake(moved.model, 0.05, seed=1)
    with pytest.raises(ValueError, match="where the model gives"):
        ask(LogpScorer.probed(moved), cache)  # other weights under one fingerprint
    change(cache, "DELETE FROM checksums")  # as in a cache of an earlier version
    change(cache, "UPDATE logps SET logp = logp + 0.5")
    with pytest.raises(ValueError, match="where the model gives.*damaged; remove it"):
        ask(scorer, cache)


@pytest.mark.parametrize("by", ["logp + 0.01", "logp - 1e-6", "-logp", "'word'", "NULL"])
@pytest.mark.parametrize("which", range(12))
def test_one_value_that_was_altered_is_found_whichever_it_is(scorer, cache, by, which):
    """The four probes would see three of twelve, and none that is off by less than rounding."""
    ask(scorer, cache)
    with sqlite3.connect(cache.path) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM logps ORDER BY key")]
        database.execute(f"UPDATE logps SET logp = {by} WHERE key = ?", (keys[which],))
    database.close()
    with pytest.raises(ValueError, match="1 of 12 values .* are not what was written.*remove the"):
        ask(scorer, cache)
    cache.path.unlink()
    assert ask(scorer, ReferenceCache(cache.path))[1].computed == 12, "what it says to do works"


def test_values_that_were_exchanged_are_found(scorer, cache):
    ask(scorer, cache)
    change(cache, "UPDATE logps SET logp = (SELECT max(logp) FROM logps)")
    with pytest.raises(ValueError, match="11 of 12 values"):
        ask(scorer, cache)


def test_a_cache_of_an_earlier_version_is_read_and_added_to_and_it_reads_ours(scorer, cache):
    whole, _ = ask(scorer, cache)
    change(cache, "DROP TABLE checksums")
    change(cache, "DELETE FROM logps WHERE substr(hex(key), 1, 1) < '8'")
    values, use = ask(scorer, ReferenceCache(cache.path))
    assert use.cached > 0 and use.computed > 0 and torch.equal(values, whole)
    change(cache, "INSERT OR IGNORE INTO logps VALUES (x'00', 1.0)")  # two columns, as ever


@pytest.mark.parametrize("earlier", [False, True])
def test_a_cache_that_cannot_be_written_to_is_read(scorer, cache, monkeypatch, caplog, earlier):
    whole, _ = ask(scorer, cache, SEQUENCES[:8])
    if earlier:
        change(cache, "DROP TABLE checksums")
    before, connect = cache.path.read_bytes(), sqlite3.connect

    def only_read(path, **options):
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(reference_cache.sqlite3, "connect", only_read)
    with caplog.at_level(logging.WARNING):
        values, use = ask(scorer, ReferenceCache(cache.path))
    assert torch.equal(values[:8], whole) and use.cached == 8 and use.computed == 4
    assert cache.path.read_bytes() == before
    said = [r.getMessage() for r in caplog.records if "cannot be written to" in r.getMessage()]
    assert len(said) == 1 and "are not stored" in said[0]


def test_a_snapshot_is_read_without_locks_and_never_written(scorer, cache, tmp_path):
    whole, _ = ask(scorer, cache, SEQUENCES[:8])
    copy = tmp_path / "shared #1" / "references.sqlite"
    copy.parent.mkdir()
    shutil.copyfile(cache.path, copy)
    before = copy.read_bytes()
    with closing(sqlite3.connect(copy)) as other:
        other.execute("BEGIN EXCLUSIVE")
        values, use = ask(scorer, ReferenceCache(copy, read_only=True))
    assert torch.equal(values[:8], whole) and use.cached == 8 and use.computed == 4
    assert copy.read_bytes() == before and list(copy.parent.iterdir()) == [copy]


def test_a_full_disk_keeps_no_value_and_stops_nothing(scorer, cache, caplog):
    ask(scorer, cache, SEQUENCES[:2])
    many = some_sequences(400, seed=5)
    with sqlite3.connect(cache.path) as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.close()
    connect = sqlite3.connect

    def full(path, **options):
        database = connect(path, **options)
        database.execute(f"PRAGMA max_page_count = {pages}")
        return database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_cache.sqlite3, "connect", full)
        values, use = ask(scorer, ReferenceCache(cache.path), many)
    assert use.computed > 300 and "database or disk is full" in caplog.text
    torch.testing.assert_close(values, score_sequences(scorer, many), rtol=0, atol=1e-5)


def test_a_folder_that_cannot_be_made_is_no_obstacle(scorer, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    cache = ReferenceCache(tmp_path / "file" / "reference.sqlite")
    assert ask(scorer, cache)[1].computed == 12 == ask(scorer, cache)[1].computed
    assert caplog.text.count("cannot be written to") == 1


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
    logps = LogpScorer.logps

    def watched(self, batch):
        passes.append(tuple(batch.input_ids.shape))
        return logps(self, batch)

    monkeypatch.setattr(LogpScorer, "logps", watched)
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
            ask(LogpScorer.probed(lm), cache)
    with sqlite3.connect(cache.path) as database:
        assert not database.execute("SELECT * FROM logps").fetchall()
    database.close()
