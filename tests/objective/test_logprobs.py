import math

import pytest
import torch

from dpo_lab.objective.logprobs import sequence_logps, token_logps


def test_token_logps_by_hand():
    """Two tokens in the vocabulary; ids 0 1 | 1 0, the response after the bar.

    The prompt's last token, at position 1, has logits (0, ln 3): probabilities 1/4 and 3/4. It
    predicts the first response token, 1: ln(3/4). Position 2 has (0, ln 4): 4/5 is token 1, so its
    target 0 gets ln(1/5). Positions 0 and 3 predict nothing that is scored. The sum is ln(3/20).
    """
    logits = torch.tensor([[[90.0, -90.0], [0, math.log(3)], [0, math.log(4)], [-90.0, 90.0]]])
    ids, mask = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 0, 1, 1]])
    expected = [[0, math.log(3 / 4), math.log(1 / 5)]]
    torch.testing.assert_close(token_logps(logits, ids, mask), torch.tensor(expected))
    torch.testing.assert_close(
        sequence_logps(logits, ids, mask), torch.tensor([math.log(3 / 20)]), atol=1e-6, rtol=0
    )


def test_bfloat16_logits_are_summed_in_float32():
    """256 equal logits: each token has -ln 256; 100 of them have -100 ln 256 = -554.518 nats.

    In bfloat16, numbers of that size step by 4.
    """
    logits = torch.full((1, 101, 256), 20.0, dtype=torch.bfloat16)
    ids = torch.zeros(1, 101, dtype=torch.long)
    mask = torch.ones(1, 101, dtype=torch.bool)
    mask[:, 0] = False
    found = sequence_logps(logits, ids, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.item(), -100 * math.log(256), atol=1e-3, rtol=0)


def test_token_logps_refuses_what_it_cannot_score():
    logits, ids = torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="position 0.*Put at least one prompt"):
        token_logps(logits, ids, torch.tensor([[1, 1, 1]]))
    with pytest.raises(ValueError, match="first two dimensions must be equal"):
        token_logps(logits[:, :2], ids, torch.tensor([[0, 1, 1]]))
