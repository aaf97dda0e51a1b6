"""What a model bears is tried at the lengths that the data has."""

import logging

import pytest
import torch
from tiny import GROUPED, make_tokenizer, plain_logp, shake
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences

IDS = tuple(torch.randint(2, 300, (60,), generator=torch.Generator().manual_seed(0)).tolist())
SHORT = [(IDS[:9], IDS[9:20]), (IDS[:9], IDS[20:30])]
LONG = [*SHORT, (IDS[:20], IDS[20:40]), (IDS[:20], IDS[40:55])]


def language_model(model: torch.nn.Module) -> LanguageModel:
    return LanguageModel(shake(model.eval(), 0.15, 0), make_tokenizer(), "tiny", "test")


def llama(**options) -> LanguageModel:
    torch.manual_seed(0)
    return language_model(LlamaForCausalLM(LlamaConfig(vocab_size=320, **GROUPED, **options)))


def test_a_narrow_view_that_no_configuration_names(caplog):
    """Every layer looks back 26 tokens: found at the data's lengths, not at the first probe's."""
    lm = llama()
    for layer in lm.model.model.layers:
        forward = layer.self_attn.forward

        def narrow(*args, attention_mask=None, forward=forward, **kwargs):
            length = kwargs["hidden_states"].shape[1]
            if attention_mask is None or attention_mask.shape[-1] == length:
                place = torch.arange(length)
                ago = place[:, None] - place
                attention_mask = ((ago >= 0) & (ago < 26))[None, None]
            return forward(*args, attention_mask=attention_mask, **kwargs)

        layer.self_attn.forward = narrow
    with torch.no_grad():
        expected = torch.stack([plain_logp(lm.model, *sequence) for sequence in LONG])
    scorer = LogpScorer.probed(lm)
    assert scorer.batch(SHORT).trees is not None
    with caplog.at_level(logging.WARNING, logger="dpo_lab"):
        found = score_sequences(scorer, LONG)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert scorer.batch(LONG).trees is None and scorer.batch(SHORT).trees is not None
    assert "sequences above 23 tokens are padded, not packed (log-probabilities" in caplog.text


def test_a_kept_reference_knows_what_its_policy_found_out():
    """Of a model whose rows of more than 30 tokens change with their padding.

    Callers lay out with the policy's scorer and ask the reference's for the states.
    """
    lm = llama()

    def see_padding(module, args, output):
        (ids,) = args
        ends = (ids == lm.encoder.pad_id).long()
        padding = ends.flip(1).cumprod(1).sum(1) - 1  # one of them is the answer's own end
        return output + 0.05 * padding.clamp(min=0)[:, None, None] * (ids.shape[1] > 30)

    lm.model.model.embed_tokens.register_forward_hook(see_padding)
    sequences = [(prompt, (*response, 1)) for prompt, response in LONG]
    with torch.no_grad():
        expected = torch.stack([plain_logp(lm.model, *sequence) for sequence in sequences])
    policy = LogpScorer.probed(lm, packing=False)
    reference = Reference(policy)
    reference.keep()
    batch = policy.batch(sequences)
    with reference.active() as scorer, torch.no_grad():
        found = scorer.logps(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_no_room_for_a_sequence_is_said_in_one_line():
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    scorer = LogpScorer.probed(language_model(GPT2LMHeadModel(config)))
    score_sequences(scorer, SHORT)
    with pytest.raises(
        ValueError, match="sequence of 40 tokens.*made for 32.*max_length"
    ) as caught:
        score_sequences(scorer, LONG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", ["padded", "without cache"])
def test_no_room_for_an_answer_is_said_in_one_line(way):
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    lm = language_model(GPT2LMHeadModel(config))
    lm.answers = way
    lm.model.lm_head.weight.data[1] = 0  # the end token is not the likeliest
    assert len(sample(lm, [IDS[:20]], max_new_tokens=12, temperature=0)[0].ids) == 12
    with pytest.raises(ValueError, match="max_new_tokens=20.*20 tokens.*32.*Give fewer") as caught:
        sample(lm, [IDS[:20]], max_new_tokens=20, temperature=0)
    assert "\n" not in str(caught.value)


def test_rotary_positions_beyond_the_models_are_used_and_said_once(caplog):
    lm = llama(max_position_embeddings=32)
    with torch.no_grad():
        expected = torch.stack([plain_logp(lm.model, *sequence) for sequence in LONG])
    scorer = LogpScorer.probed(lm)
    with caplog.at_level(logging.WARNING, logger="dpo_lab"):
        for _ in range(2):
            found = score_sequences(scorer, LONG)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["tiny: sequences of up to 40 tokens, and the model is made for 32."]
