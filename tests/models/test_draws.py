import numpy as np
import pytest
import torch
from tiny import make_language_model, some_sequences

from dpo_lab.models.draws import chooser, inverse_cdf
from dpo_lab.models.sampling import sample

PROMPTS = [prompt for prompt, _ in some_sequences(7)]


@pytest.mark.parametrize(
    "uniform, token",
    [(0.0, 0), (0.19, 0), (0.21, 2), (0.69, 2), (0.71, 3), (1 - 2**-53, 3)],
)
def test_inversion_by_hand(uniform, token):
    """Probabilities 0.2, 0, 0.5, 0.3, 0: the cumulative sums are 0.2, 0.2, 0.7, 1, 1."""
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]).log()[None]
    assert inverse_cdf(logits, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_evenly_spaced_numbers_give_every_token_its_probability():
    """Of n evenly spaced numbers, n p lie in an interval of length p, give or take one."""
    n, rng = 20_000, np.random.default_rng(0)
    logits = rng.normal(0, 3, 500).astype(np.float32)
    weights = np.exp(logits.astype(np.float64) - logits.max())
    expected = n * weights / weights.sum()
    uniforms = torch.arange(n, dtype=torch.float64) / n
    tokens = inverse_cdf(torch.from_numpy(logits).expand(n, -1), uniforms)
    assert np.abs(np.bincount(tokens, minlength=500) - expected).max() < 1.01


def test_numbers_are_uniform_and_differ_by_seed_number_and_place():
    """With logits of two equal tokens, the draw is the first bit of the uniform number."""
    logits = torch.zeros(200, 2)

    def bits(seed: int, numbers: range) -> np.ndarray:
        choose = chooser(seed, numbers, 50, 1.0, torch.device("cpu"))
        return np.stack([choose(logits, place).numpy() for place in range(50)])

    first = bits(0, range(200))
    # 10,000 fair coins: a mean of 1/2 with a standard error of 0.005.
    assert abs(first.mean() - 0.5) < 0.02
    for other in (bits(1, range(200)), bits(0, range(200, 400)), first[::-1], first[:, ::-1]):
        assert abs((first == other).mean() - 0.5) < 0.03
    assert np.array_equal(bits(0, range(10, 210))[:, 0], first[:, 10])


def test_an_answer_does_not_depend_on_the_prompts_beside_it():
    lm = make_language_model()
    together = sample(lm, PROMPTS, max_new_tokens=6, seed=3, batch_size=3)
    alone = [
        sample(lm, [prompt], max_new_tokens=6, seed=3, numbers=[number])[0]
        for number, prompt in enumerate(PROMPTS)
    ]
    assert together == alone
    same = sample(lm, PROMPTS[:1] * 40, max_new_tokens=6, seed=3)
    assert len({answer.ids for answer in same}) > 30
