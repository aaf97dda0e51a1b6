"""A copy beside its policy: every figure computed another way, and copies with planted damage."""

import copy
import math
from statistics import median

import pytest
import torch
from tiny import argmax_loop, make_language_model, plain_log_probs, shake

from dpo_lab.analysis.agreement import Asked, compare_with_copy

PROMPTS = [(5, 6, 7), (8, 9), (30, 31, 32, 33), (70, 80)]


@pytest.fixture(scope="module")
def policy(one_thread):
    return make_language_model("Qwen2")


@pytest.fixture(scope="module")
def asked(policy):
    long, short = (Asked.of(policy, PROMPTS, 10, max_new_tokens=most) for most in (9, 4))
    return Asked([*long.sampled[:5], *short.sampled[5:]], long.greedy)


def moved(policy, scale=0.02):
    return shake(copy.deepcopy(policy.model), scale, seed=3)


@torch.no_grad()
def test_kl_and_differences_are_those_of_whole_distributions(policy, asked):
    other = moved(policy)
    found = compare_with_copy(policy, other, asked, "moved")
    kls, differences, lengths, places = [], [], [], []
    for answer in asked.sampled:
        ours = plain_log_probs(policy.model, answer.prompt, answer.ids)
        theirs = plain_log_probs(other, answer.prompt, answer.ids)
        kls.append((ours.exp() * (ours - theirs)).sum().item())
        at = torch.arange(len(answer.ids)), torch.tensor(answer.ids)
        differences += (ours - theirs)[at].abs().tolist()
        lengths.append(len(answer.ids))
        places.append(PROMPTS.index(answer.prompt))
    assert found.kl_per_answer == pytest.approx(sum(kls) / 10, rel=1e-6)
    assert found.kl_per_token == pytest.approx(sum(kls) / sum(lengths), rel=1e-6)
    assert found.largest == pytest.approx(max(differences), rel=1e-6)
    assert found.mean_difference == pytest.approx(sum(differences) / len(differences), rel=1e-6)
    assert (found.answers, found.tokens) == (10, sum(lengths)) and len(set(lengths)) > 1
    # A ratio's error, linearised: what each prompt's answers add beyond the ratio of all.
    sums = [0.0] * 4
    for kl, length, place in zip(kls, lengths, places, strict=True):
        sums[place] += kl - found.kl_per_token * length
    error = math.sqrt(4 / 3 * sum(one**2 for one in sums)) / sum(lengths)
    assert found.kl_per_token_stderr == pytest.approx(error, rel=1e-5)


@torch.no_grad()
def test_greedy_answers_differ_where_generation_would(policy, asked):
    other = moved(policy, 0.05)
    found = compare_with_copy(policy, other, asked, "moved")
    firsts = []
    for prompt in PROMPTS:
        ours, theirs = (
            argmax_loop(model, prompt, policy.encoder.end_ids, 9) for model in (policy.model, other)
        )
        places = [at for at, (a, b) in enumerate(zip(ours, theirs, strict=False), 1) if a != b]
        firsts += places[:1]
    assert firsts and found.first_difference == median(firsts)
    assert found.greedy_differ == len(firsts) / len(PROMPTS)


def test_the_policy_itself_agrees_with_itself(policy, asked):
    found = compare_with_copy(policy, policy.model, asked, "itself")
    assert (found.kl_per_token, found.largest, found.greedy_differ) == (0, 0, 0)
    assert found.first_difference is None and found.as_dict()["first_difference"] is None


def test_one_damaged_row_of_the_head_is_seen(policy, asked):
    """Of one token that the policy sampled: its log-probability alone is far off."""
    other, token = copy.deepcopy(policy.model), asked.sampled[0].ids[0]
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.detach().clone())
    with torch.no_grad():
        other.lm_head.weight[token] += 0.5
    found = compare_with_copy(policy, other, asked, "damaged")
    assert found.largest > 5 * found.mean_difference > 0


def test_no_numbers_are_refused(policy, asked):
    other = copy.deepcopy(policy.model)
    with torch.no_grad():
        other.model.embed_tokens.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="overflown: .* no numbers"):
        compare_with_copy(policy, other, asked, "overflown")
