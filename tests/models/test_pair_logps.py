"""Log-probabilities of pairs as LD-DPO and WPO see them, token by token."""

import math

import pytest
import torch

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.models.loading import load_model
from dpo_lab.models.scoring import LogpScorer, pair_logps, score_sequences

PAIRS = [
    TokenizedPair((5, 6, 7), (8, 9, 10, 2), (9, 2), 1),
    TokenizedPair((6, 7), (8,), (9, 10, 2), 2),
    TokenizedPair((6, 7), (8, 2), (9, 2), 3),
]


@pytest.mark.parametrize("packing", [True, False])
def test_ld_dpo_counts_tokens_beyond_the_shared_length_by_alpha(packing):
    model = load_model("micro", device="cpu")
    scorer = LogpScorer.probed(model, packing=packing)

    def weighted(prompt, response, shared) -> float:
        logits = model.model(torch.tensor([[*prompt, *response]])).logits[0].double()
        table = logits[len(prompt) - 1 : -1].log_softmax(-1).tolist()
        values = [row[token] for row, token in zip(table, response, strict=True)]
        return sum(values[:shared]) + 0.3 * sum(values[shared:])

    sequences = PairSequences.of(PAIRS, cut=True)
    found = pair_logps(sequences, score_sequences(scorer, sequences.all), 0.3)
    shared = [2, 1, 2]
    with torch.no_grad():
        expected = [
            [weighted(p.prompt, p.chosen, n) for p, n in zip(PAIRS, shared, strict=True)],
            [weighted(p.prompt, p.rejected, n) for p, n in zip(PAIRS, shared, strict=True)],
        ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-5, rtol=0)
    plain = PairSequences.of(PAIRS)
    whole = pair_logps(plain, score_sequences(scorer, plain.all), None)
    assert (whole[1, 2] - found[1, 2]).abs() < 1e-5 and whole[0, 0] < found[0, 0]


def test_alignment_is_the_mean_over_each_response_s_own_tokens():
    """`log p(y_t) - log sum_v p(v)^2`, from the full probabilities of one row at a time."""
    model = load_model("micro", device="cpu")
    scorer, expected = LogpScorer.probed(model), []
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
    logps, aligned = scorer.aligned_logps(batch)
    assert aligned.tolist() == pytest.approx(expected, abs=1e-5)
    assert not aligned.requires_grad and logps.requires_grad
