import pytest
import torch

from dpo_lab.models.loading import load_model, weights_fingerprint
from dpo_lab.models.reference import ReferenceCache, reference_logps
from dpo_lab.models.scoring import Scorer


@pytest.fixture(scope="module")
def micro():
    return load_model("micro")


@pytest.fixture
def cache(tmp_path):
    return ReferenceCache(tmp_path / "cache.sqlite")


def sequences(micro, words=("good", "bad", "very good", "not bad and dull", "fine")):
    prompts = ["the plot was"] * len(words)
    return list(
        zip(
            micro.encoder.prompts(prompts),
            micro.encoder.responses(prompts, list(words)),
            strict=True,
        )
    )


def values(micro, cache, some, **options):
    scorer = Scorer(micro, options.pop("precision", "float32"))
    return reference_logps(scorer, weights_fingerprint(micro.base), some, cache=cache, **options)


def test_the_second_time_nothing_is_computed(micro, cache):
    some = sequences(micro)
    first, use = values(micro, cache, some)
    again, reuse = values(micro, cache, some)
    assert (use.computed, use.cached) == (5, 0)
    assert (reuse.computed, reuse.cached) == (0, 5) and reuse.probed > 0
    assert torch.equal(first, again)


def test_a_sequence_that_occurs_twice_is_computed_once(micro, cache):
    some = sequences(micro)
    result, use = values(micro, cache, some + some)
    assert use.computed == 5
    assert torch.equal(result[:5], result[5:])


def test_the_key_is_what_the_value_depends_on(micro, cache):
    some = sequences(micro)
    values(micro, cache, some)
    (prompt, response), *_ = some
    moved = [(prompt + response[:1], response[1:])]  # the same ids, another mask
    assert values(micro, cache, moved)[1].computed == 1
    assert values(micro, cache, some, precision="bfloat16")[1].computed == 5
    other = load_model("micro")
    with torch.no_grad():
        other.model.lm_head.weight[0, 0] += 1e-3
    assert values(other, cache, some)[1].computed == 5


def test_an_interrupted_computation_changes_no_bit(micro, tmp_path):
    """Killed after its first group, with one value of the second lost: the same bits in the end."""
    some = sequences(micro, [f"{a} and {b}" for a in ("good", "bad") for b in ("dull", "fine")])
    whole, _ = values(micro, ReferenceCache(tmp_path / "whole"), some, token_budget=16)

    class Killed(BaseException):
        pass

    def kill(done, total):
        raise Killed

    broken = ReferenceCache(tmp_path / "broken")
    with pytest.raises(Killed):
        values(micro, broken, some, token_budget=16, progress=kill)
    resumed, use = values(micro, broken, some, token_budget=16)
    assert use.cached > 0 and use.computed > 0
    assert torch.equal(resumed, whole)


def test_damaged_values_are_refused(micro, cache):
    some = sequences(micro)
    values(micro, cache, some)
    with cache._open() as database:
        database.execute("UPDATE logps SET logp = logp - 1")
    with pytest.raises(ValueError, match="reference cache.*damaged"):
        values(micro, cache, some)


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "cache.sqlite").write_text("not a database, but long enough to be read" * 30)
    with pytest.raises(ValueError, match="reference cache cannot be used"):
        ReferenceCache(tmp_path / "cache.sqlite")
