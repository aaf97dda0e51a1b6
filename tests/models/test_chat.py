"""Answers that come token by token, and the turns that a model is given again."""

from __future__ import annotations

import pytest
from tiny import make_language_model

from dpo_lab.models.chat import Chat, stream
from dpo_lab.models.sampling import sample

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def talker():
    """A tiny model with a chat template."""
    model = make_language_model()
    model.use_template(CHATML)
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_stream_is_the_sampled_answer_a_token_at_a_time(talker, temperature):
    how = {"max_new_tokens": 12, "temperature": temperature, "seed": 4}
    prompt = [{"role": "user", "content": "where is the answer"}]
    (whole,) = sample(talker, talker.encoder.prompts([prompt]), **how)
    texts: list[str] = []
    streamed = stream(talker, prompt, texts.append, **how)
    assert streamed == whole and len(texts) == len(whole.ids) > 1
    decode = talker.tokenizer.decode
    for count, text in enumerate(texts, start=1):
        so_far = decode(whole.ids[:count], skip_special_tokens=True).strip()
        assert text == so_far.rstrip("\ufffd")


def test_it_ends_where_it_is_told_to_and_the_model_can_be_asked_again(talker):
    texts: list[str] = []

    def two(text: str) -> bool:
        texts.append(text)
        return len(texts) < 2

    stopped = stream(talker, "the answer", two, max_new_tokens=12)
    assert len(stopped.ids) == 2 and not stopped.ended and len(texts) == 2
    whole = stream(talker, "the answer", lambda text: None, max_new_tokens=12)
    assert whole.ids[:2] == stopped.ids and len(whole.ids) > 2


def test_a_conversation_is_given_whole_and_starts_anew(talker):
    chat = Chat(talker)
    assert chat.remembers
    first = chat.ask("is it there", lambda text: None, max_new_tokens=5)
    second = chat.ask("where", lambda text: None, max_new_tokens=5)
    written = talker.tokenizer.decode(second.prompt)
    assert written.startswith("<|user|>is it there<eos><|assistant|>")
    assert written.endswith("<eos><|user|>where<eos><|assistant|>")
    assert chat.turns[1] == {"role": "assistant", "content": first.text}
    chat.forget()
    third = chat.ask("where", lambda text: None, max_new_tokens=5)
    assert talker.tokenizer.decode(third.prompt) == "<|user|>where<eos><|assistant|>"


def test_without_a_template_each_text_is_completed_alone():
    chat = Chat(make_language_model())
    chat.ask("is it there", lambda text: None, max_new_tokens=3)
    answer = chat.ask("where", lambda text: None, max_new_tokens=3)
    assert not chat.remembers
    assert chat.model.tokenizer.decode(answer.prompt) == "where"
