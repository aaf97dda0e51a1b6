"""Whole conversations: what the assistant wrote after the prompt is scored, and nothing else."""

import json
import re
from functools import cache
from itertools import groupby

import pytest
from chat_families import FAMILIES, Family, family_tokenizer
from datasets import Dataset

from dpo_lab.data.pair_ids import PARTED, TRAILING
from dpo_lab.data.pairs import pair_row
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.preflight.check import check_pairs
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.template_settings import use_template
from dpo_lab.data.templates import GENERATED, UNOPENED
from dpo_lab.data.text_to_ids import CHANGED, Encoder
from dpo_lab.data.thinking import without_thinking
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.data.tokenized_pairs import tokenize_pairs

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def call(city):
    function = {"name": "weather", "arguments": {"city": city}}
    calls = [{"type": "function", "id": f"{city:_<9}", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(city, text):
    return {"role": "tool", "name": "weather", "tool_call_id": f"{city:_<9}", "content": text}


ASKED = [user("Name a river")]
# name: prompt, chosen, rejected, how many of the responses' first messages both share
SHAPES = {
    "system": ([system("Be short."), *ASKED], [assistant("The Elbe.")], [assistant("A lake.")], 0),
    "several turns before": (
        [*ASKED, assistant("The Elbe."), user("Where is it?")],
        [assistant("In Europe.")], [assistant("No idea.")], 0,
    ),
    "the last messages": (
        ASKED,
        [assistant("The Elbe."), user("Where is it?"), assistant("In Europe.")],
        [assistant("A lake."), user("Where?"), assistant("No idea."), user("?"), assistant("Hm.")],
        0,
    ),
    "a middle turn": (
        ASKED,
        [assistant("The Elbe."), user("Thanks"), assistant("You are welcome.")],
        [assistant("A lake."), user("Thanks"), assistant("You are welcome.")],
        0,
    ),
    "a call of a tool": (
        [user("Weather in Jena?")],
        [call("Jena"), result("Jena", "18"), assistant("It is 18 C.")],
        [call("Gera"), result("Gera", "12"), assistant("It is 12 C.")],
        0,
    ),
    "a tool's result": (
        [user("Weather in Jena?")],
        [call("Jena"), result("Jena", "18"), assistant("It is 18 C.")],
        [call("Jena"), result("Jena", "none"), assistant("It is 12 C.")],
        1,
    ),
    "thinking": (
        ASKED,
        [assistant("<think>\nin Europe\n</think>\n\nThe Elbe.")],
        [assistant("<think>\nhm\n</think>\n\nA lake.")],
        0,
    ),
}  # fmt: skip
WITH_TOOLS = ("a call of a tool", "a tool's result")


@cache
def tokenizer_of(name):
    return family_tokenizer(FAMILIES[name])


def row_of(shape):
    prompt, chosen, rejected, _ = SHAPES[shape]
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return row | {"tools": TOOLS} if shape in WITH_TOOLS else row


def pairs_of(row, tokenizer, **options):
    return tokenize_pairs(preferences_from_rows([row]), tokenizer, **options)


def by_marks(name, shape, side):
    """Ids of the whole conversation, and which the assistant wrote, by the family's own marks.

    Arguments of calls are text for DeepSeek, whose template joins them to text.
    """
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    prompt, *sides, shared = SHAPES[shape]
    messages = prompt + sides[side]
    if name == "DeepSeek":
        messages = [_with_text_arguments(message) for message in messages]
    text = tokenizer.apply_chat_template(
        messages, tools=TOOLS if shape in WITH_TOOLS else None, tokenize=False
    )
    text = text[: text.rindex(family.end) + len(family.end)]
    turns = []
    for begin in re.finditer(family.begins, text):
        end = text.index(family.end, begin.end()) + len(family.end)
        turns.append((begin.end(), end))
    before = sum(message["role"] == "assistant" for message in prompt) + shared
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    scored = [
        any(start <= first and last <= end for start, end in turns[before:])
        for first, last in encoded.offset_mapping
    ]
    return encoded.input_ids, scored


def _with_text_arguments(message):
    calls = message.get("tool_calls")
    if not calls:
        return message
    (one,) = calls
    city = one["function"]["arguments"]["city"]
    function = {"name": "weather", "arguments": f'{{"city": "{city}"}}'}
    return {**message, "tool_calls": [{**one, "function": function}]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_scored_ids_are_what_the_assistant_wrote_in_the_whole_conversation(name, shape):
    if shape in WITH_TOOLS and not FAMILIES[name].tools:
        with pytest.raises(ValueError, match="refused by the chat template"):
            pairs_of(row_of(shape), tokenizer_of(name))
        return
    (pair,) = pairs_of(row_of(shape), tokenizer_of(name))
    for side, ids in enumerate((pair.chosen, pair.rejected)):
        whole, scored = by_marks(name, shape, side)
        assert list(pair.prompt + plain_ids(ids)) == whole
        assert [False] * len(pair.prompt) + [token >= 0 for token in ids] == scored
        assert any(scored)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_turn_alone_can_be_scored(name):
    row = row_of("the last messages")
    (pair,) = pairs_of(row, tokenizer_of(name), score_turns="last")
    whole, scored = by_marks(name, "the last messages", 0)
    last = len(scored) - scored[::-1].index(False)
    assert list(pair.prompt + plain_ids(pair.chosen)) == whole
    expected = [False] * last + [True] * (len(whole) - last)
    assert [False] * len(pair.prompt) + [token >= 0 for token in pair.chosen] == expected


def text_of(tokenizer, ids):
    """Scored runs as text, context in brackets."""
    runs = groupby(ids, key=lambda token: token >= 0)
    return "".join(
        tokenizer.decode(list(run)) if scored else f"[{tokenizer.decode(plain_ids(tuple(run)))}]"
        for scored, run in runs
    )


def test_context_between_turns_is_read_and_not_scored():
    tokenizer = tokenizer_of("SmolLM")
    (pair,) = pairs_of(row_of("a middle turn"), tokenizer)
    between = "[\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n]"
    after = "You are welcome.<|im_end|>"
    assert text_of(tokenizer, pair.chosen) == f"The Elbe.<|im_end|>{between}{after}"
    assert text_of(tokenizer, pair.rejected) == f"A lake.<|im_end|>{between}{after}"


@pytest.mark.parametrize(
    ("thinking", "name", "prompt", "chosen"),
    [
        ("keep", "Qwen 3", "assistant\n", "<think>\nin Europe\n</think>\n\nThe Elbe."),
        ("strip", "Qwen 3", "assistant\n", "<think>\n\n</think>\n\nThe Elbe."),
        ("empty", "Qwen 3", "assistant\n<think>\n\n</think>\n\n", "The Elbe."),
        ("keep", "SmolLM", "assistant\n", "<think>\nin Europe\n</think>\n\nThe Elbe."),
        ("strip", "SmolLM", "assistant\n", "The Elbe."),
        ("keep", "DeepSeek", "<｜Assistant｜></think>", "\n\nThe Elbe."),
        ("empty", "DeepSeek", "<｜Assistant｜></think>", "The Elbe."),
    ],
)
def test_thinking_is_kept_taken_out_or_turned_off(thinking, name, prompt, chosen):
    """By each template's own ways: Qwen's of an answered question writes an empty block itself."""
    tokenizer = family_tokenizer(FAMILIES[name])
    use_template(tokenizer, thinking=thinking)
    (pair,) = pairs_of(row_of("thinking"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith(prompt)
    assert tokenizer.decode(pair.chosen) == chosen + FAMILIES[name].end


def test_thinking_in_a_field_of_its_own_is_the_same():
    prompt, (answer,), rejected, _ = SHAPES["thinking"]
    apart = assistant("The Elbe.", reasoning_content="in Europe")
    tokenizer = tokenizer_of("Qwen 3")
    row = {"prompt": prompt, "chosen": [answer], "rejected": rejected}
    (one,), (other,) = (pairs_of(r, tokenizer) for r in (row, {**row, "chosen": [apart]}))
    assert one.chosen == other.chosen


def test_a_template_that_cannot_turn_thinking_off_says_so():
    with pytest.raises(ValueError, match="thinking='empty': this chat template cannot be told"):
        use_template(family_tokenizer(FAMILIES["SmolLM"]), thinking="empty")


def test_a_turn_whose_prompt_is_no_prefix_is_refused_and_the_last_can_be_scored():
    """Mistral's tools stand before the last question: in the whole, not where a model saw them."""
    prompt, chosen, rejected, _ = SHAPES["the last messages"]
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": TOOLS}
    with pytest.raises(ValueError, match=r"'\[AVAILABLE_TOOLS\]', id \d+.*score_turns='last'"):
        pairs_of(row, tokenizer_of("Mistral"))
    (pair,) = pairs_of(row, tokenizer_of("Mistral"), score_turns="last")
    assert tokenizer_of("Mistral").decode(pair.chosen[-2:]).endswith("</s>")


def test_calls_are_read_in_every_shape():
    """OpenAI's text of arguments, ShareGPT's words, and a table that gives every row each field."""
    prompt, chosen, rejected, _ = SHAPES["a call of a tool"]
    tokenizer = tokenizer_of("Qwen 3")
    row = row_of("a call of a tool")
    (expected,) = pairs_of(row, tokenizer)
    as_text = [_with_text_arguments(message) for message in chosen]
    sharegpt = [
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Jena"}}'},
        {"from": "observation", "value": "18"},
        {"from": "gpt", "value": "It is 18 C."},
    ]
    other = call("Gera")
    other["tool_calls"][0]["function"]["arguments"] |= {"unit": "C"}
    filler = {"prompt": prompt, "chosen": [other, *chosen[1:]], "rejected": rejected}
    for given in (as_text, sharegpt):
        (pair,) = pairs_of({**row, "chosen": given}, tokenizer)
        assert pair.chosen == expected.chosen
    table = Dataset.from_list([row, {**filler, "tools": TOOLS}])
    assert tokenize_pairs(preferences_from_rows(table), tokenizer)[0].chosen == expected.chosen
    assert (
        tokenize_pairs(preferences_from_rows([{**row, "tools": json.dumps(TOOLS)}]), tokenizer)[0]
        == expected
    )


def test_a_prompt_asks_with_its_tools_and_is_written_as_a_row_again():
    tokenizer = tokenizer_of("Llama 3.1")
    (pair,) = preferences_from_rows([row_of("a call of a tool")])
    asked = [user("Weather in Jena?")]
    expected = tokenizer.apply_chat_template(
        asked, tools=TOOLS, tokenize=True, add_generation_prompt=True
    )
    assert Encoder(tokenizer).prompts([pair.prompt]) == [tuple(expected.input_ids)]
    assert pair_row(pair.prompt, "18 C", "?") == {
        "prompt": asked, "chosen": [assistant("18 C")], "rejected": [assistant("?")], "tools": TOOLS
    }  # fmt: skip


def test_conversations_that_part_elsewhere_are_counted():
    """At a question, that is; and what follows the last answer is left out."""
    tokenizer = tokenizer_of("SmolLM")
    begun = [*ASKED, assistant("The Elbe.")]
    row = {
        "chosen": [*begun, user("Where?"), assistant("In Europe."), user("Thanks")],
        "rejected": [*begun, user("Is it?"), assistant("No.")],
    }
    pairs = pairs_of(row, tokenizer)
    assert str(pairs) == f"1 pairs tokenised, 1 {PARTED}, 1 {TRAILING}"
    (pair,) = pairs
    assert tokenizer.decode(pair.prompt).endswith("The Elbe.<|im_end|>\n<|im_start|>user\n")
    ask = "<|im_end|>\n<|im_start|>assistant\n]"
    assert text_of(tokenizer, pair.chosen) == f"[Where?{ask}In Europe.<|im_end|>"
    assert text_of(tokenizer, pair.rejected) == f"[Is it?{ask}No.<|im_end|>"


def test_a_cut_keeps_no_context_at_the_end_and_no_response_of_context_alone():
    tokenizer = tokenizer_of("SmolLM")
    row = row_of("the last messages")
    (whole,) = pairs_of(row, tokenizer)
    first = next(at for at, token in enumerate(whole.chosen) if token < 0)
    (pair,) = pairs_of(
        row, tokenizer, max_length=len(whole.prompt) + first + 3,
        max_prompt_length=len(whole.prompt),
    )  # fmt: skip
    assert pair.chosen == whole.chosen[:first]
    with pytest.raises(ValueError, match="response empty after truncation"):
        pairs_of(row, tokenizer, score_turns="last", max_length=len(whole.prompt) + first + 3)


def test_an_end_token_within_an_earlier_turn_is_refused():
    prompt, chosen, rejected, _ = SHAPES["a middle turn"]
    row = {"prompt": prompt, "rejected": rejected}
    row["chosen"] = [assistant("The<|im_end|> Elbe."), *chosen[1:]]
    with pytest.raises(ValueError, match="an end token inside the response"):
        pairs_of(row, tokenizer_of("SmolLM"))


def with_template(template, special=("<end>", "<eom>", "<think>", "</think>"), eos="<end>"):
    """A tokenizer of a family that is none, with a template of a few words."""
    family = Family("smollm", special, "", eos, eos)
    tokenizer = family_tokenizer(family)
    tokenizer.chat_template = template
    return tokenizer


EACH = "{% for m in messages %}"
ASK = "{% if add_generation_prompt %}[assistant]{% endif %}"


def test_a_turn_that_ends_with_no_known_token_is_refused():
    """Calls end in another token than answers (Functionary), a tool's result in that of these.

    By what ends an answer, the result would be scored.
    """
    tokenizer = with_template(
        EACH
        + "[{{ m.role }}]{% for c in m.tool_calls or [] %}{{ c.function.name }}<eom>{% endfor %}"
        "{% if not m.tool_calls %}{{ m.content }}<end>{% endif %}{% endfor %}" + ASK
    )
    with pytest.raises(ValueError, match="a turn without an end"):
        pairs_of(row_of("a call of a tool"), tokenizer)
    (pair,) = pairs_of(row_of("a call of a tool"), tokenizer, score_turns="last")
    assert text_of(tokenizer, pair.chosen).endswith("It is 18 C.<end>")
    row = {"prompt": ASKED, "chosen": [call("Jena")], "rejected": [assistant("No.")]}
    with pytest.raises(ValueError, match="a turn without an end"):
        pairs_of(row, tokenizer)


def test_an_end_token_in_what_the_user_says_ends_no_turn():
    """The template of this family ends an answer with nothing but the next header."""
    tokenizer = with_template(
        EACH + "[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% else %}<end>{% endif %}"
    )
    prompt, chosen, rejected, _ = SHAPES["a middle turn"]
    chosen = [chosen[0], user("what is <end> ?"), chosen[2]]
    with pytest.raises(ValueError, match="a turn without an end"):
        pairs_of({"prompt": prompt, "chosen": chosen, "rejected": rejected}, tokenizer)


@pytest.mark.parametrize(
    "first",
    [
        call("Jena") | {"reasoning_content": "the tag <|im_end|> ends"},
        call("a<|im_end|>b"),
    ],
)
def test_an_end_token_in_thinking_or_a_call_is_refused(first):
    row = row_of("a call of a tool")
    with pytest.raises(ValueError, match="an end token inside the response"):
        pairs_of({**row, "chosen": [first, *row["chosen"][1:]]}, tokenizer_of("Qwen 3"))


OPENING = (
    EACH + "[{{ m.role }}]{{ m.content.split('</think>')[-1] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)


def test_an_answer_without_thinking_is_not_put_into_thinking_that_the_prompt_opens():
    tokenizer = with_template(OPENING)
    (pair,) = pairs = pairs_of(row_of("system"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith("Name a river<end>[assistant]")
    assert tokenizer.decode(pair.chosen) == "The Elbe.<end>"
    assert UNOPENED in str(pairs)
    (pair,) = pairs_of(row_of("thinking"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith("[assistant]<think>\n")
    assert tokenizer.decode(pair.chosen) == "in Europe\n</think>\n\nThe Elbe.<end>"
    use_template(tokenizer, thinking="strip")
    (pair,) = pairs_of(row_of("thinking"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith("[assistant]")
    assert tokenizer.decode(pair.chosen) == "The Elbe.<end>"


def test_thinking_is_not_put_behind_a_block_that_the_prompt_has_closed():
    tokenizer = with_template(OPENING.replace("<think>\n", "<think></think>"))
    (pair,) = pairs = pairs_of(row_of("thinking"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith("[assistant]")
    assert tokenizer.decode(pair.chosen) == "\n\nThe Elbe.<end>"
    assert UNOPENED in str(pairs) and CHANGED in str(pairs)


def test_what_asks_for_an_answer_may_say_more_than_stands_before_one():
    """A line break after the header, as of templates that are indented, or a phrase."""
    tokenizer = with_template(
        EACH + "[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]Steps:{% endif %}"
    )
    (pair,) = pairs = pairs_of(row_of("system"), tokenizer)
    assert tokenizer.decode(pair.prompt).endswith("[assistant]Steps:")
    assert tokenizer.decode(pair.chosen) == "The Elbe.<end>"
    assert GENERATED in str(pairs)


@pytest.mark.parametrize(
    "text", ["The closing tag is </think> in Qwen.", "Use <think>x</think> to think."]
)
def test_strip_leaves_an_answer_that_speaks_of_the_tags(text):
    assert without_thinking(assistant(text)) == assistant(text)
    assert without_thinking(assistant("hm</think>\nYes"), opened=True) == assistant("Yes")


def test_nulls_of_arguments_go_where_a_table_has_put_them_and_stay_in_text():
    prompt, chosen, rejected, _ = SHAPES["a call of a tool"]
    for arguments, expected in (
        ({"city": "Jena", "unit": None}, {"city": "Jena"}),
        ('{"city": "Jena", "unit": null}', {"city": "Jena", "unit": None}),
    ):
        given = call("Jena")
        given["tool_calls"][0]["function"]["arguments"] = arguments
        row = {"prompt": prompt, "chosen": [given, *chosen[1:]], "rejected": rejected}
        (pair,) = preferences_from_rows([row])
        assert pair.chosen[0]["tool_calls"][0]["function"]["arguments"] == expected


def test_what_a_template_leaves_out_of_any_turn_is_counted():
    """Llama 3.1's writes a call and not the words before it."""
    row = row_of("a call of a tool")
    chosen = [{**row["chosen"][0], "content": "Let me look."}, *row["chosen"][1:]]
    assert CHANGED in str(pairs_of({**row, "chosen": chosen}, tokenizer_of("Llama 3.1")))
    assert CHANGED not in str(pairs_of({**row, "chosen": chosen}, tokenizer_of("Phi 4")))


def test_sampled_thinking_that_is_stripped_is_read_as_text():
    tokenizer = family_tokenizer(FAMILIES["SmolLM"])
    use_template(tokenizer, thinking="strip")
    row, encoder = row_of("thinking"), Encoder(tokenizer)
    ids = encoder.tokenizer(row["chosen"][0]["content"] + "<|im_end|>").input_ids
    row["chosen_sampled"] = {"ids": ids, "ended": True, "tokenizer": encoder.fingerprint}
    (pair,) = pairs_of(row, tokenizer)
    assert tokenizer.decode(pair.chosen) == "The Elbe.<|im_end|>"


def test_a_check_reads_conversations_as_a_run_would():
    """By the same turns: Mistral's tools let only the last be scored; what was done is told."""
    prompt, chosen, rejected, _ = SHAPES["the last messages"]
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": TOOLS}
    tokenizer = tokenizer_of("Mistral")
    every, last = (
        check_pairs([row], tokenizer, CheckSettings(held_out=0.0, score_turns=which)).usable
        for which in ("all", "last")
    )
    assert (every, last) == (0, 1)
    begun = [*ASKED, assistant("The Elbe.")]
    parted = {
        "chosen": [*begun, user("Where?"), assistant("In Europe."), user("Thanks")],
        "rejected": [*begun, user("Is it?"), assistant("No.")],
    }
    found = check_pairs([parted], tokenizer_of("SmolLM"), CheckSettings(held_out=0.0))
    titles = " ".join(one.title for one in found.findings)
    assert "part at a message" in titles and "after the last answer" in titles
