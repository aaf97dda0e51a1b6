"""Adapters as PEFT saves them elsewhere: without a tokenizer, or with more tokens than the base."""

import logging
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import make_language_model, plain_logp, shake, some_sequences

from dpo_lab.models.loading import load_model
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.models.weights import save_model

SIZE = 320  # ids of a tiny model


def trained_elsewhere(folder, family: str, ids: int, targets: list[str]):
    """A trained adapter in `folder/adapter`, on `folder/base` with an embedding of so many ids."""
    save_model(make_language_model(family), folder / "base")
    base = load_model(folder / "base", device="cpu").model
    base.resize_token_embeddings(ids, mean_resizing=False)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets))
    shake(model, 0.2, seed=1, only="lora_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it saves the embedding, too
        model.save_pretrained(folder / "adapter")
    return model.eval()


def same_logps(ours, theirs, sequences) -> None:
    with torch.no_grad():
        right = torch.stack([plain_logp(theirs, *sequence) for sequence in sequences])
    torch.testing.assert_close(
        score_sequences(LogpScorer.probed(ours), sequences), right, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("ids", [SIZE, SIZE + 10, SIZE - 8])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("Llama", ["q_proj"]),
        ("Qwen2", ["q_proj"]),  # head and embedding share their weights
        ("GPT2", ["c_attn"]),
        ("Qwen2", ["q_proj", "embed_tokens"]),
    ],
)
def test_the_base_is_resized_to_the_vocabulary_of_its_adapter(
    tmp_path, caplog, family, targets, ids
):
    """Log-probabilities of PEFT's own model; the last id is one that the base did not have."""
    theirs = trained_elsewhere(tmp_path, family, ids, targets)
    with caplog.at_level(logging.WARNING):
        ours = load_model(tmp_path / "adapter", device="cpu")
    said = [record.message for record in caplog.records if "is resized." in record.message]
    assert len(said) == (ids != SIZE)
    assert ours.encoder.vocabulary == ours.model.config.vocab_size == ids
    same_logps(ours, theirs, [*some_sequences(3), ((5, ids - 1), (ids - 1, ids - 2, 1))])


def test_a_head_whose_new_rows_were_not_saved_is_refused(tmp_path):
    """PEFT saves the embedding that it adapts, and not the head beside it."""
    trained_elsewhere(tmp_path, "Llama", SIZE + 10, ["q_proj", "embed_tokens"])
    with pytest.raises(ValueError, match="330 ids, its base has 320, and the head's rows for the"):
        load_model(tmp_path / "adapter", device="cpu")


def test_an_adapter_without_a_tokenizer_has_its_bases(tmp_path, caplog):
    theirs = trained_elsewhere(tmp_path, "Llama", SIZE, ["q_proj"])
    base = load_model(tmp_path / "base", device="cpu")
    with caplog.at_level(logging.WARNING):
        ours = load_model(tmp_path / "adapter", device="cpu")
    assert f"that of its base {tmp_path / 'base'} is used" in caplog.text
    assert ours.encoder.fingerprint == base.encoder.fingerprint
    (one,) = ours.encoder.encode(["the answer is"], [" no"])
    same_logps(ours, theirs, [(one.prompt, one.response)])


def test_an_adapter_with_a_tokenizer_keeps_it(tmp_path, caplog):
    trained_elsewhere(tmp_path, "Llama", SIZE + 10, ["q_proj"])
    tokenizer = load_model(tmp_path / "base", device="cpu").tokenizer
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    with caplog.at_level(logging.WARNING):
        ours = load_model(tmp_path / "adapter", device="cpu")
    assert "without a tokenizer" not in caplog.text
    assert ours.tokenizer.convert_tokens_to_ids("<tool>") == len(tokenizer) - 1
