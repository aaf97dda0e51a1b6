import logging

import pytest
import torch
from tiny import (
    FAMILIES,
    branching_sequences,
    in_float64,
    make_language_model,
    make_model,
    plain_logp,
    shake,
    some_sequences,
)
from torch.nn.attention.flex_attention import create_block_mask
from transformers import BloomConfig, BloomForCausalLM, LlamaForCausalLM

from dpo_lab.data.batching import Trees, collate
from dpo_lab.data.packing import pack
from dpo_lab.kernels.tree_attention import TreeMasks, block_mask, tree_attention
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences

NATS = 1e-4
"""Largest difference per sequence, float32."""

# Of the first and third, a token spans the end: the whole's ids are scored from there.
PROMPTS = ["the ans", "where is the answer", "is it ", "the answer is"]
PARTED = [("the", " answer is yes"), ("where is the answer", " there")]
PARTED += [("is it", " there"), ("the answer is", " no")]
RESPONSES = ["wer is yes", " there", "there", " no"]


def plain(model, sequences) -> torch.Tensor:
    return torch.stack([plain_logp(model, *sequence) for sequence in sequences])


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_to_logps_is_the_plain_definition(family, bos):
    """Text through the lab in one padded batch, against ids put together by hand, row by row."""
    lm = make_language_model(family, bos)
    sequences = [(one.prompt, one.response) for one in lm.encoder.encode(PROMPTS, RESPONSES)]
    by_hand = []
    for prompt, response in PARTED:
        start, end = [lm.tokenizer.bos_token_id] * bos, [lm.tokenizer.eos_token_id]
        ids = lm.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids
        answer = lm.tokenizer.backend_tokenizer.encode(response, add_special_tokens=False).ids
        by_hand.append((tuple(start + ids), tuple(answer + end)))
    with torch.no_grad():
        expected = plain(lm.model, by_hand)
    scorer = LogpScorer.probed(lm)
    assert scorer.head is not None, "no family here needs its full logits"
    torch.testing.assert_close(score_sequences(scorer, sequences), expected, rtol=0, atol=NATS)


@pytest.mark.parametrize("row", range(4))
def test_ids_are_those_of_the_joined_text(row):
    """Also where ` ans` and `wer` are one token, and where white space and `there` are."""
    lm, prompt, response = make_language_model(), PROMPTS[row], RESPONSES[row]
    (ours,) = lm.encoder.encode([prompt], [response])
    assert ours.prompt + ours.response[:-1] == tuple(lm.tokenizer(prompt + response).input_ids)
    texts = lm.tokenizer.decode(ours.prompt), lm.tokenizer.decode(ours.response[:-1])
    assert texts == PARTED[row]
    assert ours.repaired == (row in (0, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_definition(family):
    """Also that no weight is left out, the tied ones and the head's bias among them."""
    lm, sequences = make_language_model(family), some_sequences(4)
    weights = dict(lm.model.named_parameters())
    upstream = torch.tensor([1.0, -1.0, 0.5, 2.0])
    expected = torch.autograd.grad(
        plain(lm.model, sequences) @ upstream, weights.values(), allow_unused=True
    )
    logps = LogpScorer.probed(lm).logps(collate(sequences, pad_id=7))
    found = torch.autograd.grad(logps @ upstream, weights.values(), allow_unused=True)
    for name, ours, plainly in zip(weights, found, expected, strict=True):
        assert (ours is None) == (plainly is None), name
        if ours is not None:
            torch.testing.assert_close(ours, plainly, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_in_training_mode_too(family):
    lm = make_language_model(family)
    batch = collate(some_sequences(4), pad_id=0)
    scorer = LogpScorer.probed(lm)
    calm = scorer.logps(batch)
    lm.model.train()
    assert not torch.allclose(scorer.logps(batch), calm), "the test must have dropout to remove"
    disable_dropout(lm.model)
    torch.testing.assert_close(scorer.logps(batch), calm, rtol=0, atol=1e-5)
    assert torch.equal(scorer.logps(batch), scorer.logps(batch))


@pytest.mark.parametrize("on_head", [False, True], ids=["trunk", "trunk-and-head"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma2", "Granite", "Phi", "GPTNeoX"])
def test_lora(family, on_head):
    """The adapter is in the policy's values, on the head too; off, it leaves the base's."""
    lm, sequences = make_language_model(family), some_sequences()
    base = score_sequences(LogpScorer.probed(lm), sequences)
    trunk = ("query_key_value", "dense") if family == "GPTNeoX" else ("q_proj", "v_proj")
    lm = add_lora(lm, 4, targets=(*trunk, "lm_head") if on_head else None)
    scorer = LogpScorer.probed(lm)
    assert scorer.head is not None and scorer.head.linear == (not on_head)
    torch.testing.assert_close(score_sequences(scorer, sequences), base, rtol=0, atol=1e-5)

    shake(lm.model, 0.3, seed=1, only="lora_B")
    with torch.no_grad():
        expected = plain(lm.model, sequences)
    found = score_sequences(scorer, sequences)
    torch.testing.assert_close(found, expected, rtol=0, atol=NATS)
    assert (found - base).abs().max() > 1
    with Reference(scorer).active() as reference:
        off = score_sequences(reference, sequences)
    torch.testing.assert_close(off, base, rtol=0, atol=1e-5)
    assert torch.equal(score_sequences(scorer, sequences), found)


def test_lora_on_the_head_alone_is_not_skipped_and_is_trained():
    lm = add_lora(make_language_model(), 4, targets=("lm_head",))
    shake(lm.model, 0.3, seed=1, only="lora_B")
    sequences = some_sequences(3)
    weights = [weight for weight in lm.model.parameters() if weight.requires_grad]
    assert len(weights) == 2
    expected = torch.autograd.grad(plain(lm.model, sequences).sum(), weights)
    found = torch.autograd.grad(LogpScorer.probed(lm).logps(collate(sequences, 0)).sum(), weights)
    for ours, plainly in zip(found, expected, strict=True):
        assert plainly.any()
        torch.testing.assert_close(ours, plainly, rtol=1e-3, atol=1e-4)


class OddLlama(LlamaForCausalLM):
    """Its logits are not the head on the trunk's states."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.3 + torch.arange(320) / 100
        return output


def test_an_odd_model_is_scored_through_its_full_logits(caplog):
    lm = make_language_model()
    lm.model.__class__ = OddLlama
    sequences = some_sequences()
    with caplog.at_level(logging.WARNING, logger="dpo_lab"):
        scorer = LogpScorer.probed(lm)
        found = score_sequences(scorer, sequences)
    assert scorer.head is None
    assert len([record for record in caplog.records if "full logits" in record.message]) == 1
    with torch.no_grad():
        torch.testing.assert_close(found, plain(lm.model, sequences), rtol=0, atol=NATS)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "GPT2", "Gemma2", "OPT"])
def test_padding_changes_nothing(family):
    """Alone, in one padded batch, in small groups, and with another padding token."""
    lm, sequences = make_language_model(family), some_sequences()
    scorer = LogpScorer.probed(lm)
    together = score_sequences(scorer, sequences)
    alone = torch.cat([score_sequences(scorer, [sequence]) for sequence in sequences])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    grouped = score_sequences(scorer, sequences, token_budget=20)
    torch.testing.assert_close(together, grouped, rtol=0, atol=1e-5)
    with torch.no_grad():
        other = scorer.logps(collate(sequences, pad_id=42))
    torch.testing.assert_close(together, other, rtol=0, atol=1e-5)


def test_only_the_states_that_predict_a_response_reach_the_head():
    lm, sequences = make_language_model(), some_sequences(3)
    rows = []
    lm.model.lm_head.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    scorer = LogpScorer.probed(lm)
    rows.clear()
    batch = collate(sequences, 0)
    scorer.logps(batch)
    assert not rows, "the full head ran"
    assert len(scorer.states(batch)) == sum(len(response) for _, response in sequences)


def test_bfloat16_keeps_head_and_sums_in_float32():
    """From the states of a trunk in bfloat16 on, all is as in float64, to float32's rounding.

    A bfloat16 sum near -64 has steps of 0.25 nats.
    """
    lm, sequences = make_language_model(), some_sequences(4)
    exact, scorer = (
        score_sequences(LogpScorer.probed(lm), sequences),
        LogpScorer.probed(lm, "bfloat16"),
    )
    rough = score_sequences(scorer, sequences)
    assert rough.dtype == torch.float32 and (rough - exact).abs().max() > 1e-3
    batch = scorer.batch(sequences)
    with torch.no_grad():
        states = scorer.states(batch).double()
    log_probs = (states @ lm.model.lm_head.weight.double().T).log_softmax(-1)
    token_logps = log_probs.gather(-1, batch.targets[:, None])[:, 0]
    torch.testing.assert_close(rough.double(), batch.sums(token_logps), rtol=0, atol=NATS)
    assert scorer.like(lm).autocast
    with pytest.raises(ValueError, match="precision='bf16'.*Use one of"):
        LogpScorer.probed(lm, "bf16")


def test_a_factor_that_is_no_number_is_left_to_the_probe():
    """MPT allows words for `logit_scale`, and does not use it."""
    lm, sequences = make_language_model(), some_sequences(2)
    expected = score_sequences(LogpScorer.probed(lm), sequences)
    lm.model.config.logit_scale = "inv_sqrt_d_model"
    assert torch.equal(score_sequences(LogpScorer.probed(lm), sequences), expected)


def test_the_kept_reference_stays_when_the_policy_moves():
    lm, sequences = make_language_model(), some_sequences(3)
    scorer = LogpScorer.probed(lm)
    reference = Reference(scorer)
    reference.keep()
    before = score_sequences(scorer, sequences)
    shake(lm.model, 0.1, seed=3)
    with reference.active() as kept:
        assert torch.equal(score_sequences(kept, sequences), before)
        assert not any(weight.requires_grad for weight in kept.language_model.model.parameters())
    assert not torch.allclose(score_sequences(scorer, sequences), before)


def test_a_reference_is_not_copied_from_a_trained_policy():
    reference = Reference(LogpScorer.probed(make_language_model()))
    reference.policy_moves()
    with pytest.raises(RuntimeError, match="was not kept.*with keep_reference=True"):
        reference.keep()


def test_models_of_a_family_differ_by_seed():
    tokenizer = make_language_model().tokenizer
    weights = [next(make_model("Llama", tokenizer, seed).parameters()) for seed in (0, 1)]
    assert not torch.equal(*weights)


PACKED = [family for family in FAMILIES if "sliding_window" not in FAMILIES[family]]


@pytest.mark.parametrize("family", PACKED)
def test_packed_rows_are_the_plain_definition(family):
    lm, sequences = make_language_model(family), branching_sequences()
    with torch.no_grad():
        expected = plain(lm.model, sequences)
    scorer = LogpScorer.probed(lm)
    assert scorer.packing
    assert scorer.batch(sequences).input_ids.shape[0] == 1
    torch.testing.assert_close(score_sequences(scorer, sequences), expected, rtol=0, atol=NATS)


@pytest.mark.parametrize("family", [family for family in PACKED if family != "Cohere"])
def test_packed_gradients_are_the_padded_ones_in_float64(family):
    lm, sequences = make_language_model(family), branching_sequences()
    in_float64(lm.model)
    upstream = torch.randn(len(sequences), dtype=torch.float64)
    gradients = []
    for packing in (True, False):
        scorer = LogpScorer.probed(lm, packing=packing)
        assert scorer.packing == packing
        lm.model.zero_grad()
        (scorer.logps(scorer.batch(sequences)) @ upstream).backward()
        gradients.append({name: p.grad.clone() for name, p in lm.model.named_parameters()})
    largest = max(gradient.norm() for gradient in gradients[1].values())
    for name, padded in gradients[1].items():
        # A key's bias has none: what is there is rounding, of the size of the other gradients.
        scale = torch.maximum(padded.norm(), 1e-6 * largest)
        difference = (gradients[0][name] - padded).norm() / scale
        assert difference < 1e-9, (name, difference)


@pytest.mark.parametrize("family", ["Mistral", "Gemma2"])
def test_a_window_that_is_too_short_is_padded(family, caplog):
    with caplog.at_level(logging.WARNING, logger="dpo_lab"):
        scorer = LogpScorer.probed(make_language_model(family))
    assert not scorer.packing
    assert len([record for record in caplog.records if "padded, not packed" in record.message]) == 1


def test_a_window_holds_for_the_batches_it_is_too_short_for():
    """Long enough for the probe: short sequences are packed, longer ones padded; both are right."""
    lm = make_language_model("Mistral")
    lm.model.config.sliding_window = 24
    for layer in lm.model.model.layers:
        layer.self_attn.sliding_window = 24
    scorer, short = LogpScorer.probed(lm), branching_sequences()
    long = [(prompt + prompt + prompt, (*response, *response)) for prompt, response in short]
    assert scorer.batch(short).trees is not None
    assert scorer.batch(long).trees is None
    with torch.no_grad():
        expected = plain(lm.model, long)
    torch.testing.assert_close(score_sequences(scorer, long), expected, rtol=0, atol=NATS)


def test_attention_that_ignores_the_interface_is_found_out(caplog):
    """Bloom takes the keyword and attends as ever: only the probe tells."""
    lm = make_language_model()
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)
    lm = LanguageModel(shake(BloomForCausalLM(config).eval(), 0.15, 0), lm.tokenizer, "bloom", "")
    with caplog.at_level(logging.WARNING, logger="dpo_lab"):
        scorer = LogpScorer.probed(lm)
    assert not scorer.packing and "padded, not packed" in caplog.text
    sequences = some_sequences()
    with torch.no_grad():
        expected = plain(lm.model, sequences)
    torch.testing.assert_close(score_sequences(scorer, sequences), expected, rtol=0, atol=NATS)


def test_the_block_mask_for_cuda_is_the_mask_of_the_trees():
    """FlexAttention, uncompiled on the CPU, against SDPA with the masks written out."""
    batch = pack(branching_sequences())
    query, key, value = torch.randn(3, 1, 4, batch.input_ids.shape[1], 8)
    outputs = [
        tree_attention(torch.nn.Identity(), query, key, value, None, trees=trees, scaling=0.3)[0]
        for trees in (
            TreeMasks.of(batch.trees, torch.float32),
            TreeMasks(batch.trees.bounds, block_mask=block_mask(batch.trees)),
        )
    ]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [5, 128, 300, 384, 1000])
def test_blocks_are_those_of_the_mask_written_out(length):
    """Random trees, some longer than a block, against torch's own search through the mask."""
    generator = torch.Generator().manual_seed(length)
    ends, bounds = [0] * length, [0]
    while bounds[-1] < length:
        size = int(torch.randint(1, 200, (), generator=generator))
        start, bounds = bounds[-1], [*bounds, min(bounds[-1] + size, length)]
        fork = int(torch.randint(start, bounds[-1], (), generator=generator))
        for place in range(start, bounds[-1]):  # a trunk, then two branches
            ends[place] = bounds[-1] if place < start + size // 3 or place >= fork else fork
    trees = Trees(torch.tensor(ends), tuple(bounds))
    dense = torch.block_diag(*trees.masks()).bool()
    expected = create_block_mask(
        lambda b, h, q, k: dense[q.clamp(max=length - 1), k.clamp(max=length - 1)]
        & (q < length) & (k < length),
        None, None, length, length, device="cpu", separate_full_blocks=True,
    )  # fmt: skip
    ours = block_mask(trees)
    assert ours.seq_lengths == expected.seq_lengths == (length, length)
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(ours, f"{name}_num_blocks")
        assert torch.equal(counts, getattr(expected, f"{name}_num_blocks")), name
        found, right = (getattr(mask, f"{name}_indices")[0, 0] for mask in (ours, expected))
        for count, *rows in zip(counts[0, 0].tolist(), found, right, strict=True):
            assert torch.equal(rows[0][:count], rows[1][:count]), name


@pytest.mark.parametrize("multiple", [8, 64])
def test_what_fills_a_row_up_changes_nothing(multiple):
    lm = make_language_model()
    scorer, sequences = LogpScorer.probed(lm), branching_sequences()
    batch = pack(sequences)
    filled = batch.filled_up(multiple, lm.encoder.pad_id)
    assert filled.input_ids.shape[1] % multiple == 0 and filled.lengths == (
        batch.input_ids.shape[1],
    )
    with torch.no_grad():
        torch.testing.assert_close(scorer.logps(filled), scorer.logps(batch), rtol=0, atol=NATS)
    assert filled.filled_up(multiple, 0) is filled
    padded = collate(sequences, lm.encoder.pad_id)
    assert padded.filled_up(multiple, 0) is padded


def test_a_model_that_packs_still_answers_and_is_saved_as_it_was(tmp_path):
    lm = make_language_model()
    prompts = [prompt for prompt, _ in some_sequences(5)]
    before = sample(lm, prompts, max_new_tokens=6, temperature=0)
    assert LogpScorer.probed(lm).packing
    assert sample(lm, prompts, max_new_tokens=6, temperature=0) == before
    lm.model.save_pretrained(tmp_path)
    assert "dpo_lab" not in (tmp_path / "config.json").read_text()
