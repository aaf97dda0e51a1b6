"""KL, log-ratio, entropy and square sums of the next token: by hand, in chunks of any size."""

import math

import pytest
import torch

from dpo_lab.kernels import chunked_stats
from dpo_lab.kernels.chunked_stats import compare_tokens, log_square_sums
from dpo_lab.objective.kl import token_kl


@pytest.mark.parametrize("elements", [1, 15, 1000])
def test_chunks_change_nothing(monkeypatch, elements):
    """Seven tokens of a vocabulary of 5 in chunks of 1, 3 and 7."""
    monkeypatch.setattr(chunked_stats, "CHUNK_ELEMENTS", elements)
    torch.manual_seed(0)
    policy, reference, targets = torch.randn(7, 5), torch.randn(7, 5), torch.randint(5, (7,))
    longest = []

    def policy_of(rows):
        longest.append(len(policy[rows]))
        return policy[rows]

    found = compare_tokens(policy_of, lambda rows: reference[rows], targets, 5)
    assert max(longest) == min(7, max(1, elements // 5))
    torch.testing.assert_close(found.kl, token_kl(policy, reference))
    entropy = torch.distributions.Categorical(logits=policy).entropy()
    torch.testing.assert_close(found.entropy, entropy)
    expected = policy.log_softmax(-1) - reference.log_softmax(-1)
    torch.testing.assert_close(found.log_ratio, expected[torch.arange(7), targets])


def test_the_mean_log_ratio_under_the_policy_is_the_kl():
    """One row of logits for each of the 5 possible samples, weighted by its probability."""
    torch.manual_seed(0)
    policy, reference = torch.randn(5).expand(5, 5), torch.randn(5).expand(5, 5)
    found = compare_tokens(
        lambda rows: policy[rows], lambda rows: reference[rows], torch.arange(5), 5
    )
    torch.testing.assert_close((policy[0].softmax(-1) * found.log_ratio).sum(), found.kl[0])


def test_no_tokens():
    none = torch.zeros(0, dtype=torch.long)
    found = compare_tokens(lambda rows: None, lambda rows: None, none, 5)
    assert found.kl.shape == found.log_ratio.shape == found.entropy.shape == (0,)


@pytest.mark.parametrize("chunk", [3, 6, 7, 1_000_000])
def test_square_sums_by_hand_in_chunks_of_any_size(monkeypatch, chunk):
    """1/4 + 1/16 + 1/16 = 3/8; thirds, 3 x 1/9 = 1/3; a certain token, 1; 1/100 + 81/100."""
    monkeypatch.setattr(chunked_stats, "CHUNK_ELEMENTS", chunk)
    rows = [[1 / 2, 1 / 4, 1 / 4], [1 / 3] * 3, [0, 1, 0], [0.1, 0.9, 0], [1 / 2, 1 / 4, 1 / 4]]
    logits = torch.tensor(rows).log() + torch.tensor([[0.0], [5.0], [-3.0], [0.0], [40.0]])
    sums = log_square_sums(lambda some: logits[some], 5, 3, logits)
    expected = [math.log(s) for s in (3 / 8, 1 / 3, 1, 0.82, 3 / 8)]
    assert sums.tolist() == pytest.approx(expected, abs=1e-6)
