from collections import Counter

import pytest
import torch
from tiny import make_language_model

from dpo_lab.annotation import candidates
from dpo_lab.annotation.candidates import prompt_of_draw, two_answers
from dpo_lab.models.loading import load_model
from dpo_lab.models.sampling import Completion

PLOT = ["the plot was", "the music was"]


def test_two_answers_differ_and_a_seed_gives_the_same_ones() -> None:
    micro = load_model("micro")
    drawn = [two for seed in range(20) for two in two_answers(micro, PLOT, seed=str(seed))]
    assert drawn == [two for seed in range(20) for two in two_answers(micro, PLOT, seed=str(seed))]
    there = [two for two in drawn if two]
    texts = [(a.text, b.text) for a, b in there]
    assert all(a != b and a and b for a, b in texts) and len(set(texts)) > 30


def test_either_side_is_the_shorter_one_about_as_often() -> None:
    """The share of pairs of unequal length whose left is shorter lies within 4 sigma of a half."""
    drawn = two_answers(load_model("micro"), ["the plot was"] * 1000, seed="1")
    lengths = [[len(one.text.split()) for one in two] for two in drawn if two]
    unequal = [a < b for a, b in lengths if a != b]
    assert abs(sum(unequal) / len(unequal) - 0.5) < 4 * 0.5 / len(unequal) ** 0.5


def test_where_a_model_has_one_answer_there_are_none() -> None:
    lm = make_language_model()
    assert two_answers(lm, ["where is it"] * 2, seed="0", max_new_tokens=4) != [None, None]
    with torch.no_grad():  # all logits equal but the end's
        lm.model.lm_head.weight.zero_()
    lm.model.lm_head.bias = torch.nn.Parameter(torch.zeros(lm.model.lm_head.out_features))
    lm.model.lm_head.bias.data[lm.tokenizer.eos_token_id] = 100.0
    assert two_answers(lm, ["where is it"] * 2, seed="0", max_new_tokens=4) == [None, None]


@pytest.mark.parametrize("texts", [("yes", " \n"), ("", "yes"), ("yes", "yes "), ("\nyes", "yes")])
def test_white_space_makes_no_answer_and_no_difference(monkeypatch, texts) -> None:
    answers = [Completion((), (), text, True) for text in (*texts, "yes", "no ")]
    monkeypatch.setattr(candidates, "sample", lambda *inputs, **options: answers)
    none, two = two_answers(make_language_model(), PLOT, seed="0")
    assert none is None and sorted(one.text for one in two) == ["no ", "yes"]


def test_every_round_has_every_prompt_once_in_an_order_of_its_own() -> None:
    prompts = list("abcdef")
    rounds = [[prompt_of_draw(prompts, 6 * r + i, 0) for i in range(6)] for r in range(20)]
    assert all(sorted(one) == prompts for one in rounds)
    assert len(Counter(map(tuple, rounds))) > 15


def test_texts_become_messages_for_a_model_with_a_chat_template() -> None:
    lm = make_language_model()
    talk = [{"role": "user", "content": "b"}]
    assert lm.encoder.as_prompts(["a", talk]) == ["a", talk]
    lm.tokenizer.chat_template = "{{ messages[0].content }}"
    assert lm.encoder.as_prompts(["b", talk]) == [talk, talk]
