import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import argmax_loop, make_language_model, shake, some_sequences

from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer

PROMPTS = [prompt for prompt, _ in some_sequences(7)]


def set_generation_defaults(model) -> None:
    """Defaults as instruction-tuned models carry them, each of which would change the answers."""
    defaults = model.generation_config
    defaults.do_sample, defaults.temperature, defaults.top_k, defaults.top_p = True, 0.3, 3, 0.5
    defaults.min_p, defaults.typical_p = 0.3, 0.5
    defaults.repetition_penalty, defaults.no_repeat_ngram_size = 5.0, 2
    defaults.min_new_tokens, defaults.max_length, defaults.num_beams = 3, 2, 2


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_are_draws_from_the_softmax(temperature):
    """Chi-square of 4000 first tokens, n (k - np)^2 / np over the tokens expected five times.

    The rest is one class. With c classes the sum has mean c - 1 and variance 2 (c - 1) under the
    null; it may lie 5 sigma above. A top-k of 3, a top-p or any penalty is far outside.
    """
    lm, prompt, n = make_language_model(), PROMPTS[0], 4000
    set_generation_defaults(lm.model)
    drawn = sample(lm, [prompt] * n, max_new_tokens=1, temperature=temperature, batch_size=n)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    expected = n * (logits / temperature).softmax(-1)
    counts = torch.bincount(
        torch.tensor([answer.ids[0] for answer in drawn]), minlength=len(logits)
    )
    common = expected >= 5
    assert common.sum() > 60, "the test must see a top-k of 50, the library's default"
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    freedom = len(expected) - 1
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Mistral", "Gemma2"])
def test_greedy_is_the_argmax_loop(family):
    """In one batch of many lengths, whatever the generation defaults, training and checkpointing.

    In training mode with gradient checkpointing the cache of past tokens would stay empty.
    """
    lm = make_language_model(family)
    expected = [argmax_loop(lm.model, ids, lm.encoder.end_ids, 6) for ids in PROMPTS]
    set_generation_defaults(lm.model)
    defaults = lm.model.generation_config
    lm.model.gradient_checkpointing_enable({"use_reentrant": False})
    lm.model.train()
    answers = sample(lm, PROMPTS, max_new_tokens=6, temperature=0, batch_size=3)
    assert [answer.ids for answer in answers] == expected
    assert [answer.prompt for answer in answers] == PROMPTS
    assert lm.model.training and lm.model.generation_config is defaults


def test_answers_end_at_the_end_token():
    lm = load_model("micro", device="cpu")
    end, texts = lm.tokenizer.eos_token_id, ["the acting felt", "the plot was"]
    prompts = lm.encoder.prompts(texts) * 20
    sample(lm, prompts[:1], max_new_tokens=1)  # the first call tries how it can be asked
    passes = []
    lm.model.register_forward_hook(lambda *at: passes.append(at))
    answers = sample(lm, prompts, max_new_tokens=8)
    assert all(answer.ended for answer in answers)
    assert len(passes) == max(len(answer.ids) for answer in answers), "one a token, none after"
    for answer in answers:
        assert answer.ids[-1] == end and end not in answer.ids[:-1]
        assert answer.text == lm.tokenizer.decode(answer.ids[:-1])
    assert len({answer.ids for answer in answers}) > 5
    short = sample(lm, prompts, max_new_tokens=1)
    assert [answer.ended for answer in short] == [answer.ids == (end,) for answer in short]
    assert not all(answer.ended for answer in short)


def test_policy_and_reference_that_agree_draw_the_same_answers():
    lm = add_lora(make_language_model(), 4)
    scorer, state = LogpScorer.probed(lm), torch.get_rng_state()
    with Reference(scorer).active() as reference:
        theirs = sample(reference.language_model, PROMPTS, max_new_tokens=5, seed=3)
    assert sample(lm, PROMPTS, max_new_tokens=5, seed=3) == theirs
    assert sample(lm, PROMPTS, max_new_tokens=5, seed=4) != theirs
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were used"
    shake(lm.model, 0.3, seed=1, only="lora_B")
    assert sample(lm, PROMPTS, max_new_tokens=5, seed=3) != theirs
    with Reference(scorer).active() as reference:
        assert sample(reference.language_model, PROMPTS, max_new_tokens=5, seed=3) == theirs


def test_progress_and_nothing_to_do():
    lm, seen = make_language_model(), []
    sample(lm, PROMPTS, max_new_tokens=1, batch_size=3, progress=lambda *at: seen.append(at))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert sample(lm, []) == []


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_temperature_out_of_range(temperature):
    with pytest.raises(ValueError, match="temperature=.*must be a number >= 0. 0 is greedy"):
        sample(make_language_model(), PROMPTS, temperature=temperature)


def test_no_room_for_an_answer():
    with pytest.raises(ValueError, match="max_new_tokens=0.*Give at least 1"):
        sample(make_language_model(), PROMPTS, max_new_tokens=0)


def test_threads_that_sample_at_once_draw_what_each_would_draw_alone() -> None:
    lm = make_language_model()

    def texts(seed: int) -> list[str]:
        return [answer.text for answer in sample(lm, PROMPTS[:2], max_new_tokens=8, seed=seed)]

    alone = [texts(seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(texts, range(16))) == alone


@pytest.mark.parametrize("way", ["padded", "of one length", "without cache"])
def test_log_probabilities_are_those_of_what_was_drawn(way):
    """However the answers are drawn, they are what plain passes over prompt and answer give."""
    lm = make_language_model("Llama")
    lm.answers = way
    prompts = [prompt for prompt, _ in some_sequences(5)]
    answers = sample(lm, prompts, max_new_tokens=6, seed=3, with_logps=True)
    for answer in answers:
        ids = torch.tensor([[*answer.prompt, *answer.ids]])
        with torch.no_grad():
            logits = lm.base(input_ids=ids, use_cache=False).logits[0, len(answer.prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert torch.tensor(answer.logps) == pytest.approx(logps, abs=1e-5)
    plain = sample(lm, prompts, max_new_tokens=6, seed=3)
    assert [answer.ids for answer in plain] == [answer.ids for answer in answers]
    assert {answer.logps for answer in plain} == {()}
