"""Token credit: it sums to the reward of the sequence, in every family and under LoRA."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, OfNoDouble, make_language_model, plain_logp, shake, some_sequences

from dpo_lab.analysis.token_credit import token_credit, token_texts
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer, score_sequences

BETA = 0.1


def _moved(model, only: str = "") -> tuple[LogpScorer, Reference]:
    """A policy some way from its reference."""
    scorer = LogpScorer.probed(model)
    reference = Reference(scorer)
    reference.keep()
    shake(model.model, 0.03, seed=3, only=only)
    return scorer, reference


def _rewards(scorer: LogpScorer, reference: Reference, sequences) -> torch.Tensor:
    policy = score_sequences(scorer, sequences)
    with reference.active() as frozen:
        return BETA * (policy - score_sequences(frozen, sequences))


@pytest.mark.parametrize("family", FAMILIES)
def test_credit_sums_to_the_reward_of_the_sequence(family: str) -> None:
    scorer, reference = _moved(make_language_model(family))
    sequences = some_sequences()
    found = token_credit(scorer, reference, sequences, BETA, token_budget=40)
    totals = torch.tensor([credit.reward for credit in found])
    expected = _rewards(scorer, reference, sequences)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(totals, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_under_lora_the_reference_is_the_adapter_switched_off(packing: bool) -> None:
    model = add_lora(make_language_model(), 4)
    scorer = LogpScorer.probed(model, packing=packing)
    reference = Reference(scorer)
    shake(model.model, 0.3, seed=3, only="lora_")
    sequences = some_sequences()
    found = token_credit(scorer, reference, sequences, BETA)
    totals = torch.tensor([credit.reward for credit in found])
    torch.testing.assert_close(totals, _rewards(scorer, reference, sequences), rtol=0, atol=1e-5)
    assert totals.abs().max() > 0.01


def test_on_micro_with_shared_beginnings_in_the_order_of_the_tokens() -> None:
    micro = load_model("micro", device="cpu")
    scorer, reference = _moved(micro)
    prompts = ["the acting felt"] * 3 + ["the plot was"]
    responses = ["superb and great", "superb", "superb and good", "superb and great"]
    sequences = list(
        zip(
            micro.encoder.prompts(prompts),
            micro.encoder.responses(prompts, responses),
            strict=True,
        )
    )
    found = token_credit(scorer, reference, sequences, BETA)
    totals = torch.tensor([credit.reward for credit in found])
    torch.testing.assert_close(totals, _rewards(scorer, reference, sequences), rtol=0, atol=1e-5)
    # One token at a time, by the plain definition on a prefix that grows.
    with reference.active() as frozen, torch.no_grad():
        for (prompt, ids), credit in zip(sequences, found, strict=True):
            for place, token in enumerate(ids):
                start = (*prompt, *ids[:place])
                policy, before = (
                    plain_logp(one.model, start, (token,)).item()
                    for one in (micro, frozen.language_model)
                )
                assert credit.policy_logps[place].item() == pytest.approx(policy, abs=1e-5)
                assert credit.reference_logps[place].item() == pytest.approx(before, abs=1e-5)
                assert credit.rewards[place].item() == pytest.approx(
                    BETA * (policy - before), abs=1e-5
                )
    assert found[0].texts == ("superb", " and", " great", " <end>") and found[0].ends


def test_a_device_without_float64_gives_the_same(monkeypatch) -> None:
    scorer, reference = _moved(make_language_model())
    expected = token_credit(scorer, reference, some_sequences(3), BETA)
    there = LogpScorer.token_logps
    monkeypatch.setattr(
        LogpScorer, "token_logps", lambda *args: there(*args).as_subclass(OfNoDouble)
    )
    for ours, theirs in zip(
        token_credit(scorer, reference, some_sequences(3), BETA), expected, strict=True
    ):
        assert ours.rewards.dtype == torch.float64 and torch.equal(ours.rewards, theirs.rewards)


def test_a_policy_that_is_its_reference_gives_no_token_any_credit() -> None:
    scorer = LogpScorer.probed(make_language_model())
    (credit,) = token_credit(scorer, Reference(scorer), some_sequences(1), BETA)
    assert credit.reward == 0 and not credit.rewards.any()


@pytest.mark.parametrize("text", ["the answer is\n yes\t no", "é and 日本 and 🙂.", "  two spaces"])
def test_texts_of_tokens_are_the_text(text: str) -> None:
    tokenizer = make_language_model().tokenizer
    ids = tuple(tokenizer(text).input_ids)
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    # Parts of a character stand as the replacement character until it is whole.
    assert "".join(texts).replace("\ufffd", "") == text


def test_a_beta_that_is_no_weight_is_refused() -> None:
    scorer = LogpScorer.probed(make_language_model())
    with pytest.raises(ValueError, match="beta=0: must be > 0"):
        token_credit(scorer, Reference(scorer), some_sequences(1), 0)
