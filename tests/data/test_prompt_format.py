"""Text and messages for one model: in one format, said in one line."""

import datetime
import re

import pytest
from tiny_tokenizers import TEMPLATES, tokenizer_of

from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.template_settings import use_template
from dpo_lab.data.templates import TemplateProblem
from dpo_lab.data.text_to_ids import AS_IT_IS, AS_MESSAGES, AS_TEXT, Encoder
from dpo_lab.data.tokenized_pairs import tokenize_pairs

QUESTION = "Is the Elbe a river?"
ASKED = [{"role": "user", "content": QUESTION}]
HH = "\n\nHuman: Is the Elbe a river?\n\nAssistant:"
CHATML = TEMPLATES["ChatML"][0]


def chat(name="ChatML"):
    return tokenizer_of("byte-level", TEMPLATES[name][0])


def rows(prompt, chosen=" yes", rejected=" no"):
    return preferences_from_rows([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "auto", "plain"),
    [
        (QUESTION, tokenizer_of("byte-level"), QUESTION, QUESTION),  # no template
        (QUESTION, chat(), ASKED, QUESTION),
        (ASKED, chat(), ASKED, QUESTION),
        (HH, chat(), HH, HH),  # turns are written out already
        ("<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n", chat(), ..., ...),
        ("<s>[INST] yes [/INST]", chat("Llama 2"), ..., ...),
        ("[INST] yes [/INST]", chat(), [{"role": "user", "content": "[INST] yes [/INST]"}], ...),
        ("<|user|>\nyes</s>\n<|assistant|>\n", chat("Zephyr"), ..., ...),
    ],
)  # fmt: skip
def test_a_prompt_has_one_shape_for_a_model(prompt, tokenizer, auto, plain):
    encoder = Encoder(tokenizer)
    assert encoder.as_prompt(prompt) == (prompt if auto is ... else auto)
    assert encoder.as_prompt(prompt, "plain") == (prompt if plain is ... else plain)
    if encoder.chat and isinstance(prompt, str):
        assert encoder.as_prompt(prompt, "chat") == [{"role": "user", "content": prompt}]


def test_formats_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="prompt_format='chat': the tokenizer of .* no chat temp"):
        Encoder(tokenizer_of("byte-level")).as_prompt(QUESTION, "chat")
    with pytest.raises(ValueError, match="prompt_format='chatml': unknown. Use one of auto, chat"):
        Encoder(chat()).as_prompt(QUESTION, "chatml")
    with pytest.raises(TemplateProblem, match="no plain form .a conversation of system user."):
        Encoder(chat()).as_prompt([{"role": "system", "content": "a"}, *ASKED], "plain")


def test_plain_rows_of_a_chat_model_are_messages_and_a_line_says_so():
    tokenizer = chat()
    tokens = tokenize_pairs(rows(QUESTION), tokenizer)
    talk = [*ASKED, {"role": "assistant", "content": " yes"}]
    whole = tokenizer.apply_chat_template(talk).input_ids
    asked = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True).input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert whole[-2] == end  # then a line break
    assert tokens[0].prompt == tuple(asked)
    assert tokens[0].prompt + tokens[0].chosen == tuple(whole[:-1])
    assert str(tokens) == f"1 pairs tokenised, 1 {AS_MESSAGES}"
    assert "prompt_format plain" in AS_MESSAGES


def test_plain_rows_stay_plain_where_that_is_asked_or_turns_are_written_out():
    tokenizer = chat()
    (pair,) = plain = tokenize_pairs(rows(QUESTION), tokenizer, prompt_format="plain")
    assert tokenizer.decode(pair.prompt + pair.chosen) == f"{QUESTION} yes</s>"
    assert str(plain) == "1 pairs tokenised"
    (pair,) = dialogue = tokenize_pairs(rows(HH), tokenizer)
    assert tokenizer.decode(pair.prompt + pair.chosen) == f"{HH} yes</s>"
    assert str(dialogue) == f"1 pairs tokenised, 1 {AS_IT_IS}"


def test_messages_can_be_plain_and_a_talk_of_several_turns_cannot():
    tokenizer = chat()
    answers = [[{"role": "assistant", "content": text}] for text in (" yes", " no")]
    (pair,) = tokens = tokenize_pairs(rows(ASKED, *answers), tokenizer, prompt_format="plain")
    assert tokenizer.decode(pair.prompt + pair.chosen) == f"{QUESTION} yes</s>"
    assert str(tokens) == f"1 pairs tokenised, 1 {AS_TEXT}"
    talk = [*ASKED, {"role": "assistant", "content": "yes"}, *ASKED]
    with pytest.raises(ValueError, match="row 1, 'prompt': no plain form .*user assistant user"):
        tokenize_pairs(rows(talk, *answers), tokenizer, prompt_format="plain")


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("{{ strftime_now('%d %b %Y') }}|", "05 Mar 1996|"),
        ("  {% set a = strftime_now('%A, %-d %B %y') %}\n {{ a }}", " Tuesday, 5 March 96"),
        ("\n{% macro a() %}{{ strftime_now('%H:%M') }}{% endmacro %}{{ a() }}", "\n00:00"),
    ],
)
def test_a_template_writes_the_day_that_it_is_given_and_nothing_else(written, right):
    """As it does with the day written into it, white space at its beginning and all."""
    tokenizer, day = tokenizer_of("byte-level", written), datetime.datetime(1996, 3, 5)
    literal = re.sub(r"strftime_now\('(.*?)'\)", lambda m: repr(day.strftime(m[1])), written)
    assert tokenizer.apply_chat_template(ASKED, chat_template=literal, tokenize=False) == right
    use_template(tokenizer, day="1996-03-05")
    assert Encoder(tokenizer).template.render(ASKED) == right
    use_template(tokenizer)  # today again
    assert Encoder(tokenizer).template.render(ASKED) != right or "%H" in written
