"""MinHash against the Jaccard similarity that it estimates."""

import random

import numpy as np
import pytest

from dpo_lab.data.preflight.minhash import (
    BANDS,
    ROWS,
    band_codes,
    jaccard,
    signatures,
    template_shingles,
    words_of,
)


def test_jaccard_by_hand():
    """Twenty words are 18 shingles; one word in the middle is in 3 of them: 15 of 21 are shared."""
    words = [f"w{number}" for number in range(20)]
    other = [*words[:10], "another", *words[11:]]
    assert jaccard(words, other) == pytest.approx(15 / 21)
    assert jaccard(words, list(words)) == 1 and jaccard(words, other[::-1]) == 0
    assert jaccard(["where"], ["where"]) == 1 and jaccard(["where"], ["where", "is"]) == 0


def test_words_are_without_case_and_punctuation_and_signs_of_han_are_words():
    assert words_of("Where is Rio, de JANEIRO?") == ["where", "is", "rio", "de", "janeiro"]
    assert words_of("我爱你 ok") == ["我", "爱", "你", "ok"]
    assert words_of("?!") == ["?!"]


def edited(words: list[str], edits: int, draw: random.Random) -> list[str]:
    words = list(words)
    for place in draw.sample(range(len(words)), edits):
        words[place] = f"new{draw.random()}"
    return words


def test_signatures_agree_in_the_share_that_is_the_similarity():
    """Over 400 pairs of texts, the estimate's error is that of 128 draws."""
    draw = random.Random(3)
    ones, others, true = [], [], []
    for _ in range(400):
        words = [f"w{draw.randrange(500)}" for _ in range(draw.randint(1, 60))]
        ones.append(words)
        others.append(edited(words, min(len(words), draw.randint(0, 6)), draw))
        true.append(jaccard(words, others[-1]))
    agree = (signatures(ones) == signatures(others)).mean(1)
    true = np.array(true)
    error = agree - true
    deviation = np.sqrt(true * (1 - true) / (BANDS * ROWS))
    assert (error[true == 1] == 0).all() and (true == 1).sum() > 20
    some = deviation > 0
    standard = error[some] / deviation[some]
    assert abs(standard.mean()) < 4 / np.sqrt(some.sum())
    assert 0.8 < standard.std() < 1.2


def test_a_text_has_the_same_signature_in_any_company():
    texts = [["a"], "a b".split(), "a b c".split(), "a b c d e".split(), ["z"]]
    together = signatures(texts)
    for text, row in zip(texts, together, strict=True):
        assert (signatures([text])[0] == row).all()
    short = together[[0, 1, 2, 4]]  # the others share a shingle
    assert len(np.unique(short[:, 0])) == len(short)


def test_bands_find_what_is_near_and_few_of_what_is_not():
    """At 0.71 a band agrees with probability 1 - (1 - 0.71^4)^32 = 0.9999; at 0.1 with 0.003."""
    draw = random.Random(4)
    texts = [[f"w{draw.randrange(10**6)}" for _ in range(20)] for _ in range(1000)]
    near = [[*words[:10], "another", *words[11:]] for words in texts]
    far = [[*words[:4], *(f"x{draw.random()}" for _ in range(16))] for words in texts]
    codes = band_codes(texts)
    assert (codes == band_codes(near)).any(1).mean() > 0.995
    assert (codes == band_codes(far)).any(1).mean() < 0.02


def test_what_many_texts_share_does_not_count():
    """Of 300 questions in one long instruction, what is left is each question's own."""
    draw = random.Random(5)
    before = [f"instruction{n}" for n in range(30)]
    own = [[f"w{draw.randrange(10**6)}" for _ in range(12)] for _ in range(300)]
    texts = [before + words for words in own]
    template = template_shingles(texts)
    assert template == {tuple(before[n : n + 3]) for n in range(28)}
    assert jaccard(texts[0], texts[1]) == pytest.approx(28 / 52)
    assert jaccard(texts[0], texts[1], template) == 0
    assert jaccard(before, before + ["end"], template) == pytest.approx(28 / 29), "nothing else"
    # Twelve shingles each, two of them at the seam; one word changes three: 9 of 15 are shared.
    changed = [*texts[0][:36], "another", *texts[0][37:]]
    assert jaccard(texts[0], changed, template) == pytest.approx(9 / 15)
    assert not template_shingles(texts[:199])
    with_it = (band_codes(texts[:1], template) == band_codes(texts[1:], template)).any(1)
    without = (band_codes(texts[:1]) == band_codes(texts[1:])).any(1)
    assert not with_it.any() and without.mean() > 0.9


def test_signatures_without_the_template_estimate_the_similarity_without_it():
    draw = random.Random(6)
    shared = [f"s{n}" for n in range(40)]
    template = frozenset(tuple(shared[n : n + 3]) for n in range(38))
    ones, others, true = [], [], []
    for _ in range(300):
        words = [f"w{draw.randrange(10**6)}" for _ in range(draw.choice([0, 5, 30]))]
        ones.append(shared + words)
        others.append(shared + edited(words, min(len(words), 3), draw))
        true.append(jaccard(ones[-1], others[-1], template))
    agree = (signatures(ones, template) == signatures(others, template)).mean(1)
    true = np.array(true)
    some = (true > 0) & (true < 1)
    deviation = np.sqrt(true[some] * (1 - true[some]) / (BANDS * ROWS))
    standard = (agree[some] - true[some]) / deviation
    assert (agree[true == 1] == 1).all() and some.sum() > 50
    assert abs(standard.mean()) < 4 / np.sqrt(some.sum())
