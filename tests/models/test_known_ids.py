"""Ids that a tokenizer has and the model has no embedding for: refused in words, or not needed."""

import pytest
import torch
from tiny import plain_logp
from tiny_tokenizers import TEMPLATES, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.templates import CannotEncode
from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.models.weights import save_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.setup import prepare

CHATML = TEMPLATES["ChatML"][0]
QUESTION = [{"role": "user", "content": "Is it?"}]


def model_of(tokenizer, known: int) -> LanguageModel:
    """A model that has embeddings for the first so many ids of a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=known, pad_token_id=None,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "tiny", "test")


def beyond(name: str, **options):
    """A tokenizer with one token more, and how many it had before."""
    tokenizer = tokenizer_of("byte-level", **options)
    known = len(tokenizer)
    tokenizer.add_special_tokens({name: "<beyond>"})
    assert tokenizer.convert_tokens_to_ids("<beyond>") == known
    return tokenizer, known


def test_an_end_token_beyond_the_embedding_is_refused_on_loading(tmp_path):
    tokenizer = tokenizer_of("byte-level")
    lm = model_of(tokenizer, len(tokenizer))
    tokenizer.add_special_tokens({"eos_token": "<beyond>"})
    save_model(lm, tmp_path)
    with pytest.raises(ValueError, match=r"eos_token '<beyond>' has id (\d+).* for \1 ids.* Use"):
        load_model(tmp_path, device="cpu")


def test_a_padding_token_beyond_the_embedding_is_another_that_exists():
    """Rows of two lengths, scored in one batch and answered in one, as each alone."""
    tokenizer, known = beyond("pad_token")
    lm = model_of(tokenizer, known)
    assert tokenizer.pad_token_id == known and lm.encoder.pad_id == tokenizer.eos_token_id
    prompts = lm.encoder.prompts(["Is it?", "Is the Elbe a river?"])
    sequences = [(prompt, (5, 6, 1)) for prompt in prompts]
    scorer = LogpScorer.probed(lm, packing=False)
    with torch.no_grad():
        right = torch.stack([plain_logp(lm.model, *sequence) for sequence in sequences])
    torch.testing.assert_close(score_sequences(scorer, sequences), right, rtol=0, atol=1e-4)
    both = sample(lm, prompts, max_new_tokens=4, temperature=0)
    alone = [sample(lm, [prompt], max_new_tokens=4, temperature=0)[0] for prompt in prompts]
    assert both == alone


def test_a_model_that_does_not_say_what_it_knows_is_not_asked(monkeypatch):
    tokenizer = tokenizer_of("byte-level")

    def unsaid(self):
        raise NotImplementedError

    monkeypatch.setattr(LlamaForCausalLM, "get_input_embeddings", unsaid)
    assert model_of(tokenizer, len(tokenizer)).encoder.vocabulary is None


def test_rows_with_a_token_beyond_the_embedding_are_left_out_by_number():
    tokenizer, known = beyond("pad_token")
    rows = [
        {"prompt": prompt, "chosen": "yes", "rejected": "no"}
        for prompt in ("Is it?", "Elbe?", "No?")
    ]
    rows[1]["chosen"] = "yes <beyond>"
    config = TrainConfig(batch_pairs=1, steps=1, held_out=0, eval_every=0, device="cpu")
    job = prepare(config, model=model_of(tokenizer, known), data=preferences_from_rows(rows))
    assert [pair.row for pair in job.train.tokens] == [1, 3]
    (problem,) = job.train.tokens.problems
    assert str(problem).startswith(
        "row 2, 'prompt': a token that the model has no embedding for ('<beyond>' has id "
        f"{known} and the model {known} of them; use the tokenizer that belongs to it"
    )


def test_an_end_of_turn_beyond_the_embedding_is_refused_where_it_is_used():
    template = CHATML.replace("<|im_end|>", "<beyond>")
    tokenizer, known = beyond("pad_token", template=template)
    lm = model_of(tokenizer, known)
    with pytest.raises(CannotEncode, match="no embedding for .'<beyond>' has id"):
        lm.encoder.prompts([QUESTION])
    rows = [{"prompt": "Is it?", "chosen": "yes", "rejected": "no"}] * 2
    options = {"batch_pairs": 1, "steps": 1, "held_out": 0, "eval_every": 0, "device": "cpu"}
    with pytest.raises(ValueError, match="no pair is left .*no embedding for .'<beyond>' has id"):
        prepare(TrainConfig(**options), model=lm, data=preferences_from_rows(rows))
    plain = TrainConfig(prompt_format="plain", **options)  # which needs no template
    assert len(prepare(plain, model=lm, data=preferences_from_rows(rows)).train) == 2
