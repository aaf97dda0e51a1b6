"""Log-probabilities from a model and pairs in any form, beside plain transformers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny import make_language_model, shake

from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.models.handed_over import as_language_model
from dpo_lab.models.loading import load_model
from dpo_lab.models.logps import logps
from dpo_lab.models.weights import save_model

ROWS = [
    {"prompt": "where is it", "chosen": " here", "rejected": " nowhere to be found"},
    {"prompt": "the answer", "chosen": " yes", "rejected": " no"},
]


@pytest.fixture
def given():
    """A tiny model without a chat template, its tokenizer, and what plain transformers gives."""
    language_model = make_language_model()
    language_model.tokenizer.chat_template = None
    model, tokenizer = language_model.model, language_model.tokenizer
    return model, tokenizer


def plain(model, tokenizer, prompt: str, response: str) -> float:
    """Ids of the whole, the end token after it; the sum over what follows the prompt."""
    first = tokenizer(prompt).input_ids
    ids = torch.tensor([[*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    every = log_probs.gather(-1, ids[0, 1:, None]).squeeze(-1)
    return every[len(first) - 1 :].sum().item()


def expected(model, tokenizer, side: str) -> list[float]:
    return [plain(model, tokenizer, row["prompt"], row[side]) for row in ROWS]


@pytest.mark.parametrize(
    "pairs",
    [ROWS, Dataset.from_list(ROWS), preferences_from_rows(ROWS)],
    ids=["rows", "dataset", "preferences"],
)
def test_the_values_are_those_of_plain_transformers(given, pairs):
    found = logps(given, pairs)
    assert found.chosen.tolist() == pytest.approx(expected(*given, "chosen"), abs=5e-5)
    assert found.rejected.tolist() == pytest.approx(expected(*given, "rejected"), abs=5e-5)
    assert [pair.row for pair in found.tokens] == [1, 2]


def conversation(model, tokenizer, messages, first: int) -> float:
    """The whole conversation's log-probabilities, summed where the assistant wrote, in float64."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans, at = [], 0
    while (at := text.find("<assistant>", at)) >= 0:
        at += len("<assistant>")
        spans.append((at, text.index("<eos>", at) + len("<eos>")))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([encoded.input_ids])).logits[0].double()
    every = logits[:-1].log_softmax(-1)
    return sum(
        every[place - 1, token].item()
        for place, (token, (a, b)) in enumerate(
            zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        )
        if any(start <= a and b <= end for start, end in spans[first:])
    )


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_turns_of_a_conversation_are_scored_as_plain_transformers_has_them(family):
    """Packed (Llama) and padded: two turns each, and a question between them that is not scored."""
    language_model = make_language_model(family)
    model, tokenizer = language_model.model, language_model.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )

    def said(*texts):
        roles = ("user", "assistant") * 3
        return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]

    begun = said("where is it", "there", "is it")
    chosen = begun + said("", "yes it is", "the answer", "yes")[1:]
    rejected = begun + said("", "no", "is it the answer", "no it is not", "so", "no")[1:]
    found = logps((model, tokenizer), [{"chosen": chosen, "rejected": rejected}])
    for values, messages in ((found.chosen, chosen), (found.rejected, rejected)):
        expected = conversation(model, tokenizer, messages, first=1)
        assert values.item() == pytest.approx(expected, abs=5e-5)


def test_a_model_of_peft_is_scored_with_its_adapter(given):
    model, tokenizer = given
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    )
    shake(adapted, 0.1, 1)
    found = logps((adapted, tokenizer), ROWS)
    assert found.chosen.tolist() == pytest.approx(expected(adapted, tokenizer, "chosen"), abs=5e-5)


def test_a_loaded_model_finds_its_tokenizer_by_its_name(tmp_path):
    micro = load_model("micro")
    save_model(micro, tmp_path / "model")
    alone = type(micro.model).from_pretrained(tmp_path / "model")
    assert torch.equal(logps(alone, "reviews").chosen, logps(tmp_path / "model", "reviews").chosen)
    assert as_language_model(micro) is micro


def test_a_model_in_training_mode_is_scored_without_dropout_and_left_as_it_was(given):
    model, tokenizer = given
    before = logps(given, ROWS).chosen
    dropout = torch.nn.Dropout(0.5)
    model.model.layers[0].mlp.register_forward_hook(lambda *call: dropout(call[-1]))
    model.model.layers[0].mlp.extra = dropout
    model.train()
    model.model.layers[1].eval()
    assert torch.equal(logps(given, ROWS).chosen, before)
    assert model.training and dropout.training and not model.model.layers[1].training
    assert dropout.p == 0.5


def test_what_is_no_model_is_refused_in_words(given):
    model, tokenizer = given
    with pytest.raises(TypeError, match="a list is not a causal language model. Give a name"):
        as_language_model([model])
    model.config._name_or_path = "nowhere/at-all"
    with pytest.raises(ValueError, match="nowhere/at-all: no tokenizer is found"):
        as_language_model(model)
    model.lm_head.to("meta")
    with pytest.raises(ValueError, match="lie on cpu, meta"):
        as_language_model((model, tokenizer))


def test_weights_of_low_precision_are_named(given, caplog):
    model, tokenizer = given
    as_language_model((model.to(torch.bfloat16), tokenizer))
    assert "its weights are bfloat16, in which small updates are lost" in caplog.text
