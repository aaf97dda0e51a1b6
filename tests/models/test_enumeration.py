import math

import pytest
import torch
from tiny import OfNoDouble, make_language_model, shake

from dpo_lab.models.enumeration import enumerate_responses
from dpo_lab.models.kl import measure_kl
from dpo_lab.models.loading import load_model
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.objective.optimum import exact_kl

TEXTS = ["the acting felt", "the plot was"]


@pytest.fixture(scope="module")
def world():
    """Prompts, reference, and a policy moved away from it by seeded noise."""
    policy = load_model("micro", device="cpu")
    reference = Reference(LogpScorer.probed(policy))
    reference.keep()
    shake(policy.model, 0.04, seed=0)
    prompts = policy.encoder.prompts(TEXTS)
    with reference.active() as scorer:
        before = [enumerate_responses(scorer.language_model, prompt) for prompt in prompts]
    after = [enumerate_responses(policy, prompt) for prompt in prompts]
    return policy, reference, prompts, before, after


def test_probabilities_sum_to_one(world):
    """Micro speaks at most three words; so does the moved policy, which still ends in time."""
    *_, before, after = world
    for enumeration in before:
        assert abs(enumeration.logps.exp().sum().item() - 1) < 1e-6
    for enumeration in after:
        assert abs(enumeration.logps.exp().sum().item() - 1) < 1e-4


def test_every_response_comes_once(world):
    """Of n words: one empty response, n of one word, n^2 of two, n^3 of three."""
    policy, *_, before, _ = world
    n = policy.model.config.vocab_size - 1
    words = before[0].words
    assert len(words) == len(words.unique(dim=0)) == 1 + n + n**2 + n**3
    assert not (words == policy.tokenizer.eos_token_id).any()


def test_values_are_the_scorer_s(world):
    """The likeliest responses, the empty one, and some at random, end token included."""
    policy, _, prompts, _, after = world
    generator = torch.Generator().manual_seed(0)
    for prompt, enumeration in zip(prompts, after, strict=True):
        rare = torch.randint(len(enumeration.logps), (5,), generator=generator)
        picked = [*enumeration.logps.topk(5).indices.tolist(), 0, *rare.tolist()]
        end = policy.tokenizer.eos_token_id
        words = [[token for token in enumeration.words[i].tolist() if token >= 0] for i in picked]
        sequences = [(prompt, (*ids, end)) for ids in words]
        torch.testing.assert_close(
            score_sequences(LogpScorer.probed(policy), sequences).double(),
            enumeration.logps[picked],
            rtol=0,
            atol=1e-4,
        )
        assert enumeration.text(policy, picked[0]) == policy.tokenizer.decode(words[0])


def test_chunks_change_nothing(world):
    policy, _, prompts, _, after = world
    chunked = enumerate_responses(policy, prompts[0], max_words=2, chunk=100)
    short = len(chunked.logps)
    assert torch.equal(chunked.words, after[0].words[:short, :2])
    torch.testing.assert_close(chunked.logps, after[0].logps[:short], rtol=0, atol=1e-5)


def test_sampled_kl_agrees_with_the_exact_one(world):
    """2500 samples a prompt; each estimate within 3 standard errors of the exact mean over prompts.

    The estimator with exact steps must be the sharper of the two.
    """
    policy, reference, prompts, before, after = world
    each = [exact_kl(a.logps, b.logps).item() for a, b in zip(after, before, strict=True)]
    exact = sum(each) / len(each)
    assert 0.1 < exact < 2
    answers = sample(policy, prompts * 2500, max_new_tokens=4, seed=1, batch_size=5000)
    measured = measure_kl(LogpScorer.probed(policy), reference, answers, token_budget=4096)
    for estimate in (measured.per_token, measured.k1):
        assert estimate.n == 5000
        assert abs(estimate.mean - exact) < 3 * estimate.stderr_samples  # of these two prompts
        assert estimate.stderr_samples < 0.1 * exact
    assert measured.per_token.stderr_samples < 0.8 * measured.k1.stderr_samples
    # By the chain rule, the steps' entropies add up to that of the response.
    whole = [-(one.logps.exp() * one.logps).sum().item() for one in after]
    tokens = sum(len(answer.ids) for answer in answers)
    assert measured.entropy * tokens / 5000 == pytest.approx(sum(whole) / len(whole), rel=0.02)


def test_three_estimators_are_unbiased_and_exact_steps_spread_least(world):
    """Fifty seeds of forty samples: the mean of each estimator within 3 of its standard errors."""
    policy, reference, prompts, before, after = world
    exact = sum(exact_kl(a.logps, b.logps).item() for a, b in zip(after, before, strict=True)) / 2
    names = ("per_token", "k1", "k3")
    found = {name: [] for name in names}
    scorer = LogpScorer.probed(policy)
    for seed in range(50):
        answers = sample(policy, prompts * 20, max_new_tokens=4, seed=seed)
        measured = measure_kl(scorer, reference, answers)
        for name in names:
            found[name].append(getattr(measured, name).mean)
    means = {name: torch.tensor(values) for name, values in found.items()}
    for name in names:
        error = means[name].std().item() / math.sqrt(50)
        assert abs(means[name].mean().item() - exact) < 3 * error
    assert means["per_token"].var() < 0.7 * means["k1"].var()
    assert min(found["k3"]) >= 0 and min(found["per_token"]) >= 0


def test_the_policy_has_no_kl_to_itself(world):
    _, reference, prompts, before, _ = world
    assert exact_kl(before[0].logps, before[0].logps) == 0
    with reference.active() as scorer:
        answers = sample(scorer.language_model, prompts, max_new_tokens=4)
        measured = measure_kl(scorer, Reference(scorer), answers)
    assert abs(measured.per_token.mean) < 1e-6 and abs(measured.k1.mean) < 1e-6


def test_taking_the_end_for_certain_changes_nothing_but_the_work(world):
    policy, _, prompts, _, after = world
    short = enumerate_responses(policy, prompts[0], then_ends=True)
    assert torch.equal(short.words, after[0].words)
    assert short.logps.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert (short.logps.exp() - after[0].logps.exp()).abs().max() < 1e-6


def test_a_model_that_says_too_much_is_refused():
    lm = make_language_model()
    with pytest.raises(ValueError, match="320 tokens.*cannot all be enumerated. Use a model like"):
        enumerate_responses(lm, (2, 3))


@pytest.mark.parametrize("keep_cache", [False, True])
def test_a_device_without_float64_gives_the_same(world, keep_cache):
    policy, _, prompts, _, _ = world
    expected = enumerate_responses(policy, prompts[0], max_words=1, keep_cache=keep_cache)

    def on_that_device(module, inputs, output):
        output.logits = output.logits.as_subclass(OfNoDouble)
        return output

    hook = policy.model.register_forward_hook(on_that_device)
    try:
        found = enumerate_responses(policy, prompts[0], max_words=1, keep_cache=keep_cache)
    finally:
        hook.remove()
    assert type(found.logps) is torch.Tensor and found.logps.dtype == torch.float64
    assert torch.equal(found.logps, expected.logps)


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_has_its_own_mode_again(world, monkeypatch, fails):
    """Also where the model fails: under gradient checkpointing, some modules train and some not."""
    policy, _, prompts, _, _ = world
    layers = policy.base.model.layers
    policy.model.eval()
    layers[0].train()
    before = [module.training for module in policy.model.modules()]
    assert len(set(before)) == 2
    if fails:
        monkeypatch.setattr(layers[-1], "forward", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            enumerate_responses(policy, prompts[0], keep_cache=True)
    else:
        enumerate_responses(policy, prompts[0], max_words=1, keep_cache=True)
    assert [module.training for module in policy.model.modules()] == before
    policy.model.eval()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kept_keys_and_values_change_nothing_but_the_work(world, checkpointing):
    policy, _, prompts, _, _ = world
    whole = enumerate_responses(policy, prompts[1], then_ends=True)
    if checkpointing:  # such a model keeps none while it trains
        policy.base.gradient_checkpointing_enable({"use_reentrant": False})
    policy.model.train()
    kept = enumerate_responses(policy, prompts[1], then_ends=True, keep_cache=True)
    assert policy.model.training
    policy.base.gradient_checkpointing_disable()
    assert torch.equal(kept.words, whole.words)
    assert (kept.logps - whole.logps)[whole.logps > -20].abs().max() < 1e-4
    assert kept.logps.exp().sum().item() == pytest.approx(1, abs=1e-12)
