"""Prompt and response ids: boundary, BOS, end tokens, chat templates, cuts."""

from functools import cache

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.templates import TemplateProblem
from dpo_lab.data.text_to_ids import MOVED, Encoder
from dpo_lab.data.tokenized_pairs import tokenize_pairs

SPECIAL = [
    "<bos>",
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<|end|>",
    "<sot>",
    "<eot>",
    "<h>",
    "</h>",
]


@cache
def trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["plotting", "the plot was plotting, and the user"] * 9, trainer)
    return tokenizer.to_str()


def tokenizer(*, bos=False, template=None, added=None, **special) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; its post-processor adds BOS (and EOS, as some do) if asked to."""
    backend = Tokenizer.from_str(trained())
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    if added:
        backend.add_tokens([AddedToken(added, special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        **{"bos_token": "<bos>", "eos_token": "<eos>", **special},
    )


def pairs(prompt, chosen, rejected="other"):
    if isinstance(prompt, list):
        chosen, rejected = ([{"role": "assistant", "content": c}] for c in (chosen, rejected))
    return preferences_from_rows([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])


def ids(some, text):
    return tuple(some(text, add_special_tokens=False).input_ids)


# Plain text


def test_a_token_over_the_boundary_belongs_to_the_response():
    """The prompt ends after "plot", and " plotting" is one token: the prompt keeps "the".

    whole, chosen      the  Ġplotting  <eos>
    whole, rejected    the  Ġplot  o  the  r  <eos>
    prompt's own       the  Ġplot
    """
    some = tokenizer()
    plotting, plot = (ids(some, text) for text in (" plotting", " plot"))
    assert len(plotting) == len(plot) == 1
    (pair,) = tokenize_pairs(pairs("the plot", "ting"), some)
    assert pair.prompt == ids(some, "the")
    assert pair.chosen == (*plotting, some.eos_token_id)
    assert pair.rejected == (*ids(some, " plotother"), some.eos_token_id)
    assert some.decode(pair.prompt + pair.chosen) == "the plotting<eos>"


@pytest.mark.parametrize("text", ["fine", "fine<eos>", "fine<eos><eos>"])
def test_a_response_ends_with_one_end_token(text):
    some = tokenizer()
    (pair,) = tokenize_pairs(pairs("the plot", text), some)
    assert pair.chosen == (*ids(some, "fine"), some.eos_token_id)


@pytest.mark.parametrize(
    ("adds", "prompt", "count"),
    [(False, "the plot", 0), (True, "the plot", 1), (True, "<bos>the plot", 1)],
)
def test_bos_stands_once_if_the_tokenizer_adds_one(adds, prompt, count):
    some = tokenizer(bos=adds)
    (pair,) = tokenize_pairs(pairs(prompt, "fine"), some)
    assert pair.prompt == (some.bos_token_id,) * count + ids(some, "the plot")
    assert some.bos_token_id not in pair.chosen
    assert pair.prompt.count(some.eos_token_id) == 0


def test_padding_falls_back_to_the_end_token():
    assert Encoder(tokenizer()).pad_id == 1
    assert Encoder(tokenizer(pad_token="<bos>")).pad_id == 0  # 0 is an id like any other


# Conversations

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<h>{{ m.role }}</h>\n\n{{ m.content | trim }}<eot>"
    "{% endfor %}{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<sot>{{ m.role | replace('assistant', 'model') }}\n"
    "{{ m.content }}<eot>\n{% endfor %}{% if add_generation_prompt %}<sot>model\n{% endif %}"
)
# Ends the turn and then the text: two end tokens, of which the response keeps the first.
PHI3 = (
    "{% for m in messages %}<h>{{ m.role }}</h>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>{% else %}{{ eos_token }}{% endif %}"
)
# Writes no end of turn at all.
BARE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}\nassistant: {% endif %}"
)
TEMPLATES = {
    "chatml": (dict(template=CHATML, eos_token="<|im_end|>"), "<|im_end|>"),
    "chatml, another eos": (dict(template=CHATML), "<|im_end|>"),
    "end of turn not special": (
        dict(template=CHATML.replace("<|im_end|>", "[/turn]"), added="[/turn]"),
        "[/turn]",
    ),
    "llama3": (dict(template=LLAMA3, bos=True), "<eot>"),
    "gemma": (dict(template=GEMMA, bos=True), "<eot>"),
    "phi3": (dict(template=PHI3), "<|end|>"),
    "no end of turn": (dict(template=BARE), "<eos>"),
}
TALK = [
    {"role": "user", "content": "the plot?"},
    {"role": "assistant", "content": "fine"},
    {"role": "user", "content": "was"},
]


@pytest.mark.parametrize(("options", "end"), TEMPLATES.values(), ids=TEMPLATES)
def test_the_end_of_turn_ends_the_response(options, end):
    some = tokenizer(**options)
    end_id = some.convert_tokens_to_ids(end)
    (pair,) = tokenize_pairs(pairs(TALK, "plotting"), some)
    asked = some.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    # Of a prompt that ends in a space, that space is part of the first token after it.
    space = " " * asked.endswith(" ")
    assert some.decode(pair.prompt) == asked.removesuffix(space or "none")
    assert pair.chosen == (*ids(some, f"{space}plotting"), end_id)
    assert pair.rejected == (*ids(some, f"{space}other"), end_id)
    assert (MOVED in pair.notes) == bool(space)
    assert set(Encoder(some).end_ids) == {some.eos_token_id, end_id}
    assert pair.prompt.count(some.bos_token_id) == int(options.get("bos", False))


@pytest.mark.parametrize(("options", "end"), TEMPLATES.values(), ids=TEMPLATES)
def test_an_end_of_turn_in_the_text_is_not_doubled_and_not_let_inside(options, end):
    some = tokenizer(**options)
    (pair,) = tokenize_pairs(pairs(TALK, f"plotting{end}"), some)
    space = " " * (options["template"] == BARE)
    assert pair.chosen == (*ids(some, f"{space}plotting"), some.convert_tokens_to_ids(end))
    with pytest.raises(ValueError, match="row 1, 'chosen': an end token inside the response"):
        tokenize_pairs(pairs(TALK, f"plot{end}ting"), some)


def test_the_other_end_token_may_not_stand_before_the_end_of_turn():
    with pytest.raises(ValueError, match="row 1, 'chosen': an end token inside the response"):
        tokenize_pairs(pairs(TALK, "fine<eos>"), tokenizer(template=CHATML))


def test_a_special_token_inside_a_response_does_not_cut_it():
    """Where the template ends no turn, nothing in the text is taken for its end."""
    some = tokenizer(template=BARE)
    (pair,) = tokenize_pairs(pairs(TALK, "plot<h>ting"), some)
    assert some.decode(pair.chosen) == " plot<h>ting<eos>"


def test_only_the_conversations_that_a_template_refuses_are_left_out():
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    answers = {"chosen": pairs(TALK, "a")[0].chosen, "rejected": pairs(TALK, "b")[0].chosen}
    rows = [
        {"prompt": prompt, **answers}
        for prompt in (TALK, [{"role": "system", "content": "s"}, *TALK], TALK)
    ]
    some = tokenizer(template=refuses + CHATML)
    tokens = tokenize_pairs(preferences_from_rows(rows), some, on_bad_rows="skip")
    assert [pair.row for pair in tokens] == [1, 3]
    assert tokens.dropped == {"refused by the chat template": 1}
    assert [str(problem) for problem in tokens.problems] == [
        "row 2, 'prompt': refused by the chat template (no system)"
    ]
    with pytest.raises(TemplateProblem, match=r"\(no system\). Fix the conversation, or use"):
        Encoder(some).prompts([rows[1]["prompt"]])


def test_a_template_that_rewrites_the_prompt_still_takes_text():
    """It hides what came before the answer; its end of turn is found all the same."""
    some = tokenizer(template="{{ messages | length }}" + CHATML)
    assert Encoder(some).end_ids == (1, 3)
    assert len(tokenize_pairs(pairs("the plot", "fine"), some, prompt_format="plain")) == 1
    with pytest.raises(ValueError, match="rewritten by the chat template"):
        tokenize_pairs(pairs(TALK, "fine"), some)


def test_a_users_text_becomes_what_the_model_expects():
    assert Encoder(tokenizer()).as_prompt("q") == "q"
    assert Encoder(tokenizer(template=CHATML)).as_prompt("q") == [{"role": "user", "content": "q"}]


# Cuts


def test_a_long_prompt_loses_its_beginning_and_keeps_bos():
    """Prompt: BOS and 10 letters. Longer response: 3 letters and its end. 8 - 4 = 4 are left."""
    some = tokenizer(bos=True)
    tokens = tokenize_pairs(pairs("0123456789", "abc", "d"), some, max_length=8)
    assert some.decode(tokens[0].prompt) == "<bos>789"
    assert [some.decode(side) for side in (tokens[0].chosen, tokens[0].rejected)] == [
        "abc<eos>",
        "d<eos>",
    ]
    assert (tokens.truncated_prompts, tokens.truncated_responses) == (1, 0)
    assert str(tokens) == "1 pairs tokenised, 1 prompts truncated"


def test_a_response_is_cut_only_beyond_half():
    """Responses of 7 and 2 tokens; the prompt keeps half of 8, so 4 are left."""
    some = tokenizer()
    tokens = tokenize_pairs(pairs("0123456789", "abcdef", "d"), some, max_length=8)
    assert some.decode(tokens[0].prompt) == "6789"
    assert some.decode(tokens[0].chosen) == "abcd"  # its end is gone: it has not ended
    assert some.decode(tokens[0].rejected) == "d<eos>"
    assert (tokens.truncated_prompts, tokens.truncated_responses) == (1, 1)


def test_a_limit_of_the_prompt_holds_where_everything_would_fit():
    some = tokenizer(bos=True)
    tokens = tokenize_pairs(pairs("0123456789", "abc"), some, max_prompt_length=3)
    assert some.decode(tokens[0].prompt) == "<bos>89"
    tokens = tokenize_pairs(pairs("0123456789", "abc"), some, max_prompt_length=1)
    assert some.decode(tokens[0].prompt) == "9"


SOME = [tokenizer(bos=bos) for bos in (False, True)]
LETTERS = st.text("0123456789", min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(LETTERS, LETTERS, LETTERS), min_size=1, max_size=4),
    st.integers(2, 40),
    st.booleans(),
)
def test_cuts_keep_what_matters(rows, max_length, bos):
    rows = [{"prompt": p, "chosen": "a" + c, "rejected": "b" + r} for p, c, r in rows]
    some = SOME[bos]
    whole = tokenize_pairs(preferences_from_rows(rows), some, max_length=1000)
    tokens = tokenize_pairs(preferences_from_rows(rows), some, max_length=max_length)
    assert len(tokens) == len(rows)
    cut_prompts = cut_responses = 0
    for pair, full in zip(tokens, whole, strict=True):
        sides = [(pair.chosen, full.chosen), (pair.rejected, full.rejected)]
        assert len(pair) <= max_length
        assert pair.prompt and pair.prompt[-1] == full.prompt[-1]
        if bos and len(pair.prompt) > 1:
            assert pair.prompt[0] == some.bos_token_id
        body = pair.prompt[bos and len(pair.prompt) > 1 :]
        assert full.prompt[-len(body) :] == body
        for side, full_side in sides:
            assert side and side == full_side[: len(side)]
        fits = len(full) <= max_length
        if fits:
            assert pair == full
        else:  # no room is wasted, and either part has half of it before it is cut
            assert len(pair) == max_length
            if len(pair.prompt) < len(full.prompt):
                cut_prompts += 1
                assert len(pair.prompt) >= max_length // 2
            if any(len(side) < len(full_side) for side, full_side in sides):
                cut_responses += 1
                assert max(len(side) for side, _ in sides) >= max_length - max_length // 2
    assert (tokens.truncated_prompts, tokens.truncated_responses) == (cut_prompts, cut_responses)


def test_sequences_are_all_chosen_then_all_rejected():
    rows = [{"prompt": p, "chosen": "a", "rejected": "b"} for p in ("1", "2")]
    some = tokenizer()
    texts = [
        (some.decode(prompt), some.decode(response))
        for prompt, response in tokenize_pairs(preferences_from_rows(rows), some).sequences()
    ]
    assert texts == [("1", "a<eos>"), ("2", "a<eos>"), ("1", "b<eos>"), ("2", "b<eos>")]
