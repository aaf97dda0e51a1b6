"""Which tokens of which response count less, by hand."""

import math

import pytest
import torch

from dpo_lab.data.batching import collate
from dpo_lab.data.packing import pack
from dpo_lab.models.loading import load_model
from dpo_lab.models.scoring import Scorer
from dpo_lab.models.tails import Tails

# Two pairs: 4 chosen tokens against 2 rejected ones, and 1 against 3.
SEQUENCES = [
    ((1, 2), (3, 4, 5, 6)),
    ((7, 8), (9,)),
    ((1, 2), (3, 4)),
    ((7, 8), (6, 5, 4)),
]
BY_HAND = [[1, 1, 0.3, 0.3], [1], [1, 1], [1, 0.3, 0.3]]


def test_the_shorter_answer_s_length_counts_in_full_on_both_sides():
    tails = Tails.of(SEQUENCES, 0.3)
    assert tails.full.tolist() == [2, 1, 2, 1]
    assert tails.at([3, 0]).full.tolist() == [1, 2]
    assert Tails.of(SEQUENCES, None) is None
    joined = Tails.joined([None, tails, tails])
    assert joined.full.tolist() == [2, 1, 2, 1] * 2 and joined.ld_alpha == 0.3


@pytest.mark.parametrize("layout", [lambda rows: collate(rows, 0), pack])
def test_weights_lie_on_the_tokens_they_are_meant_for(layout):
    batch = layout(SEQUENCES)
    weights = Tails.of(SEQUENCES, 0.3).weights(batch)
    for response, expected in enumerate(BY_HAND):
        own = batch.response == response
        assert weights[own].tolist() == pytest.approx(expected)
    ones = torch.ones(len(batch.targets))
    assert batch.sums(ones, weights).tolist() == pytest.approx([2.6, 1, 2, 1.6])


def test_alignment_is_the_mean_over_each_response_s_own_tokens():
    """`log p(y_t) - log sum_v p(v)^2`, from the full probabilities of one row at a time."""
    model = load_model("micro", device="cpu")
    scorer, expected = Scorer(model), []
    rows = [((5, 6, 7), (8, 9, 2)), ((5, 6, 7), (9,)), ((6, 7), (8, 2))]
    for prompt, response in rows:
        logits = model.model(torch.tensor([[*prompt, *response]])).logits[0].double()
        table = logits[len(prompt) - 1 : -1].softmax(-1).tolist()
        values = [
            math.log(row[token]) - math.log(sum(p * p for p in row))
            for row, token in zip(table, response, strict=True)
        ]
        expected.append(sum(values) / len(values))
    batch = scorer.batch(rows)
    logps, aligned = scorer.aligned_logps(batch, Tails(torch.tensor([1, 1, 1]), 0.5))
    assert aligned.tolist() == pytest.approx(expected, abs=1e-5)
    assert not aligned.requires_grad and logps.requires_grad
