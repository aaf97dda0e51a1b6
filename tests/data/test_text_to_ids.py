"""Ids that are trained are those of the whole text, and those that the model would write."""

import pytest
import torch
from tiny_tokenizers import KINDS, MERGING, TEMPLATES, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.templates import CannotEncode
from dpo_lab.data.text_to_ids import CHANGED, GENERATED, MOVED, TRIMMED, Encoder
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import sample

QUESTION = [{"role": "user", "content": "Name a river"}]
TALK = [*QUESTION, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "Is it?"}]
THOUGHT = "<think>\nadd one\n</think>\n\nThe Elbe."


def says(text):
    return [{"role": "assistant", "content": text}]


def pair_of(prompt, chosen, rejected, tokenizer, **options):
    if not isinstance(prompt, str):
        chosen, rejected = says(chosen), says(rejected)
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    tokens = tokenize_pairs(preferences_from_rows([row]), tokenizer, **options)
    return tokens[0], tokens


def conversation(tokenizer, messages, **options) -> tuple[int, ...]:
    return tuple(tokenizer.apply_chat_template(messages, tokenize=True, **options).input_ids)


def up_to_the_end(ids: tuple[int, ...], end: int) -> tuple[int, ...]:
    """What a template writes after its last end of turn is nobody's to say."""
    return ids[: max(at for at, token in enumerate(ids) if token == end) + 1]


# Conversations: eight templates, eight tokenizers


@pytest.mark.parametrize("prompt", [QUESTION, TALK], ids=["a question", "a talk"])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_prompt_and_response_are_those_of_the_whole_conversation(kind, name, prompt):
    """By `apply_chat_template` alone; the answer is what follows the prompt that generation has."""
    template, end = TEMPLATES[name]
    tokenizer = tokenizer_of(kind, template)
    end_id = tokenizer.convert_tokens_to_ids(end)
    asked = conversation(tokenizer, prompt, add_generation_prompt=True)
    if name == "thinking":  # it asks by <think>, which an answered conversation has not
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        text = text.removesuffix("<think>\n")
        asked = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    pair, tokens = pair_of(prompt, "The Elbe.", "No lake.", tokenizer)
    assert pair.prompt == asked
    for answer, ids in (("The Elbe.", pair.chosen), ("No lake.", pair.rejected)):
        whole = conversation(tokenizer, prompt + says(answer))
        assert pair.prompt + ids == up_to_the_end(whole, end_id)
        assert ids.count(end_id) == 1 and ids[-1] == end_id
    assert pair.prompt.count(tokenizer.bos_token_id) == (
        len([m for m in prompt if m["role"] == "user"]) if name == "Llama 2" else
        int(name in ("Llama 3", "Gemma", "Mistral"))
    )  # fmt: skip
    assert MOVED not in str(tokens)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_generate_gives_back_is_read_as_the_same_ids(kind, name, monkeypatch):
    """A model that says the answer of a pair: its ids are the pair's, and its text gives them."""
    tokenizer = tokenizer_of(kind, TEMPLATES[name][0])
    answer = THOUGHT.removeprefix("<think>\n") if name == "thinking" else "The Elbe."
    pair, _ = pair_of(QUESTION, answer, "No lake.", tokenizer)
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        vocab_size=len(tokenizer),
    )  # fmt: skip
    model = LanguageModel(LlamaForCausalLM(config), tokenizer, "tiny", "test")

    def generate(input_ids, **options):
        return torch.cat([input_ids, torch.tensor([[*pair.chosen, 0, 0]])], 1)

    monkeypatch.setattr(model.model, "generate", generate)
    model.answers = "padded"  # what is played is not compared with what the model would say
    (completion,) = sample(model, model.encoder.prompts([QUESTION]), max_new_tokens=64)
    assert completion.prompt == conversation(tokenizer, QUESTION, add_generation_prompt=True)
    assert (completion.ids, completion.ended) == (pair.chosen, True)
    if name == "thinking":  # here </think> is a special token, which text has not
        return
    (again,) = model.encoder.encode([QUESTION], [says(completion.text)])
    assert (again.prompt, again.response) == (pair.prompt, pair.chosen)


def test_the_first_token_of_an_answer_is_the_one_that_the_model_writes():
    """`The`, not `▁The`: there is a line break before it, and no space."""
    tokenizer = tokenizer_of("SentencePiece, legacy", TEMPLATES["Zephyr"][0])
    pair, _ = pair_of(QUESTION, "The Elbe.", "No lake.", tokenizer)
    names = tokenizer.convert_ids_to_tokens(pair.chosen)
    assert names[0][0] == "T" and names[-1] == "</s>"
    assert "".join(names) == "The▁Elbe.</s>"


# Thinking


def test_an_answer_with_thinking_follows_the_generation_prompt():
    """`<think>` and its line break are the prompt's; the rest and the end of turn are scored."""
    tokenizer = tokenizer_of("byte-level", TEMPLATES["thinking"][0])
    pair, tokens = pair_of(QUESTION, THOUGHT, "<think>hm\n</think>\n\nNo lake.", tokenizer)
    assert tokenizer.decode(pair.prompt) == "<|user|>Name a river<|assistant|><think>\n"
    assert tokenizer.decode(pair.chosen) == "add one\n</think>\n\nThe Elbe.<|im_end|>"
    assert tokenizer.decode(pair.rejected) == "hm\n</think>\n\nNo lake.<|im_end|>"
    assert str(tokens) == f"1 pairs tokenised, 1 {GENERATED}"


def test_a_template_that_drops_thinking_from_an_answer_says_so():
    """It asks without `<think>`: the answered conversation is what is trained, and is counted."""
    template = TEMPLATES["thinking"][0].replace("<|assistant|><think>\n", "<|assistant|>")
    tokenizer = tokenizer_of("byte-level", template)
    pair, tokens = pair_of(QUESTION, THOUGHT, "No lake.", tokenizer)
    assert tokenizer.decode(pair.chosen) == "\n\nThe Elbe.<|im_end|>"
    assert str(tokens) == f"1 pairs tokenised, 1 {CHANGED}"


def test_a_template_that_rewrites_its_prompt_is_refused_with_the_first_difference():
    template = "{{ messages | length }}" + TEMPLATES["ChatML"][0]
    tokenizer = tokenizer_of("byte-level", template)
    with pytest.raises(ValueError, match="the first token that differs is '2', id"):
        pair_of(QUESTION, "The Elbe.", "No lake.", tokenizer)


# Plain text


@pytest.mark.parametrize("gap", ["", " ", "\n"], ids=["no gap", "space", "line"])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_ids_are_those_of_the_joined_text(kind, gap):
    """A tokenizer of words has white space between any two, so there a gap changes nothing."""
    tokenizer = tokenizer_of(kind)
    prompt, answer = "Is the Elbe a river?", f"{gap}The Elbe is a river."
    pair, tokens = pair_of(prompt, answer, f"{gap}No.", tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    whole = [token for token in tokenizer(prompt + answer).input_ids if token != eos]
    alone = [token for token in tokenizer(prompt).input_ids if token != eos]
    assert pair.prompt == tuple(alone)
    assert pair.prompt + pair.chosen == (*whole, eos)
    assert (pair.prompt + pair.chosen).count(bos) == whole.count(bos) <= 1
    assert str(tokens) == "1 pairs tokenised"


@pytest.mark.parametrize("kind", MERGING)
def test_a_token_over_the_boundary_is_the_responses(kind):
    """`Answer: ` and `yes` read together end in ` yes`, and so do models write it.

    The prompt alone ends in a token of white space that the whole has not. The boundary goes back
    before it, for both answers.
    """
    tokenizer = tokenizer_of(kind)
    pair, tokens = pair_of("Answer: ", "yes", "no", tokenizer)
    whole = [tuple(tokenizer(f"Answer: {answer}").input_ids) for answer in ("yes", "no")]
    eos = (tokenizer.eos_token_id,)
    assert [pair.prompt + pair.chosen, pair.prompt + pair.rejected] == [ids + eos for ids in whole]
    alone = tuple(tokenizer("Answer: ").input_ids)
    names = tokenizer.convert_ids_to_tokens(pair.chosen)
    assert names[0][0] in "Ġ▁" and "".join(names)[1:] == "yes</s>"
    assert pair.prompt == alone[:-1]
    assert str(tokens) == f"1 pairs tokenised, 1 {MOVED}"
    encoder = Encoder(tokenizer)
    assert encoder.prompts(["Answer: "]) == [alone]  # generation begins with all of it
    (one,) = encoder.encode(["Answer: "], ["yes"])
    assert one.repaired and one.prompt == pair.prompt
    with pytest.raises(CannotEncode, match="a token spans the end of the prompt"):
        encoder.responses(["Answer: "], ["yes"])


def test_a_merge_with_one_answer_moves_the_boundary_of_both():
    """`plotting` is one token and `plotgood` is none: both begin at the plot."""
    tokenizer = tokenizer_of("byte-level")
    pair, _ = pair_of("the plot", "ting", "good", tokenizer)
    names = [tokenizer.convert_ids_to_tokens(ids) for ids in (pair.prompt, pair.chosen)]
    assert ["".join(some) for some in names] == ["the", "Ġplotting</s>"]
    assert "".join(tokenizer.convert_ids_to_tokens(pair.rejected)) == "Ġplotgood</s>"


def test_a_prompt_that_is_all_part_of_the_responses_first_token_is_refused():
    with pytest.raises(ValueError) as caught:
        pair_of("plot", "ting", "good", tokenizer_of("byte-level"))
    reason = "row 1, 'prompt': prompt and response join into one token ('plotting' in place of"
    assert reason in str(caught.value)


def test_words_that_join_into_an_unknown_one_are_refused():
    """`feltgood` is no word of a WordPiece vocabulary that knows `felt` and `good` alone."""
    tokenizer = tokenizer_of("WordPiece, BOS and EOS")
    tokenizer.backend_tokenizer.model.max_input_chars_per_word = 6
    with pytest.raises(ValueError, match="join into one token .'<unk>' in place of 'felt'"):
        pair_of("plot felt", "good", "no", tokenizer)


def test_words_are_tokenised_apart():
    tokenizer = tokenizer_of("words")
    pair, _ = pair_of("the plot felt", "good", "no", tokenizer)
    assert tokenizer.convert_ids_to_tokens(pair.prompt) == ["the", "plot", "felt"]
    assert tokenizer.convert_ids_to_tokens(pair.chosen) == ["good", "</s>"]


# Rows that were rendered before


@pytest.mark.parametrize("eos", ["<|im_end|>", "</s>"])
def test_rows_already_rendered_are_used_and_white_space_after_their_end_is_cut(eos):
    tokenizer = tokenizer_of("byte-level", TEMPLATES["ChatML"][0], eos_token=eos)
    prompt = "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\n"
    pair, tokens = pair_of(prompt, "The Elbe.<|im_end|>\n", "No lake.<|im_end|>\n", tokenizer)
    asked = conversation(tokenizer, QUESTION, add_generation_prompt=True)
    whole = conversation(tokenizer, QUESTION + says("The Elbe."))
    assert pair.prompt == asked
    assert pair.prompt + pair.chosen == whole[:-1]  # without the line break at the end
    assert tokenizer.convert_ids_to_tokens(pair.chosen)[-1] == "<|im_end|>"
    assert f"1 {TRIMMED}" in str(tokens)


def test_white_space_at_the_end_of_an_answer_stays_where_no_end_token_follows():
    tokenizer = tokenizer_of("byte-level")
    pair, tokens = pair_of("Is it?", " yes\n", " no </s> \n</s>", tokenizer)
    assert tokenizer.decode(pair.chosen) == " yes\n</s>"
    assert tokenizer.decode(pair.rejected) == " no </s>"
    assert str(tokens) == f"1 pairs tokenised, 1 {TRIMMED}"
