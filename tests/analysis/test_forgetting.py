"""Log-likelihood of neutral text under two models, against the plain definition."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_language_model, plain_logp, shake

from dpo_lab.analysis.forgetting import TextLogps, neutral_passages, text_change, text_logps

PASSAGES = ["the answer is yes", "where is the answer", "is it there or here", "no it is not"]


def test_each_passage_is_scored_after_its_first_token():
    model = make_language_model()
    found = text_logps(model, PASSAGES)
    for passage, logp, count in zip(PASSAGES, found.logps, found.tokens, strict=True):
        ids = model.tokenizer(passage).input_ids
        assert count == len(ids) - 1
        assert logp.item() == pytest.approx(plain_logp(model.model, ids[:1], ids[1:]).item(), 1e-5)


def test_bos_stands_before_the_first_token_where_there_is_one():
    model = make_language_model(bos=True)
    ids = model.tokenizer(PASSAGES[0], add_special_tokens=False).input_ids
    found = text_logps(model, PASSAGES)
    assert found.tokens[0] == len(ids)
    plain = plain_logp(model.model, [model.tokenizer.bos_token_id], ids)
    assert found.logps[0].item() == pytest.approx(plain.item(), 1e-5)


def test_the_change_by_hand():
    """Two passages of 10 and 30 tokens, A worse by 4 and 8 nats: 12 nats of 40 tokens, -0.3.

    Residuals -4 + 0.3 x 10 = -1 and -8 + 0.3 x 30 = 1: error sqrt(2 x 2) / 40 = 0.05.
    """
    tokens = torch.tensor([10, 30])
    before = TextLogps(torch.tensor([-20.0, -60.0]), tokens, "t")
    after = TextLogps(torch.tensor([-24.0, -68.0]), tokens, "t")
    found = text_change(after, before)
    assert found.tokens == 40 and found.b == -2 and found.a == pytest.approx(-2.3)
    assert found.change.mean == pytest.approx(-0.3)
    assert found.change.high - found.change.mean == pytest.approx(1.96 * 0.05, rel=1e-4)
    assert text_change(before, before).change.mean == 0


def test_the_interval_holds_the_change_at_its_rate():
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        tokens = torch.randint(30, 90, (40,), generator=generator)
        noise = torch.randn(40, generator=generator, dtype=torch.float64) * tokens.sqrt()
        before = TextLogps(-2.0 * tokens.double(), tokens, "t")
        found = text_change(TextLogps(-2.1 * tokens + noise, tokens, "t"), before).change
        held += found.low <= -0.1 <= found.high
    # Forty passages and a normal quantile: a little below 95 %, as 94 % of Student's t.
    assert abs(held / 400 - 0.943) <= 3 * math.sqrt(0.95 * 0.05 / 400)


def test_a_model_that_is_shaken_forgets():
    model, shaken = make_language_model(), make_language_model()
    shake(shaken.model, 0.3, 1)
    change = text_change(text_logps(shaken, PASSAGES), text_logps(model, PASSAGES))
    assert change.change.mean != 0 and change.change.mean == pytest.approx(change.a - change.b)


def test_what_cannot_be_compared_is_refused(micro, tmp_path):
    with pytest.raises(ValueError, match="does not know"):
        text_logps(micro, neutral_passages())
    one = TextLogps(torch.tensor([-1.0, -2.0]), torch.tensor([3, 4]), "one")
    with pytest.raises(ValueError, match="different tokenizers"):
        text_change(one, TextLogps(one.logps, one.tokens, "other"))
    alone = tmp_path / "alone.txt"
    alone.write_text("One passage\non two lines.")
    with pytest.raises(ValueError, match="holds 1 passages"):
        neutral_passages(alone)


def test_the_lab_s_own_passages():
    passages = neutral_passages()
    assert len(passages) == 20 and all(200 < len(text) < 500 for text in passages)
