"""What is drawn against the exact frontier is what the frontier is about: the listed answers."""

from __future__ import annotations

import math

import pytest
from babble import let_it_babble

from dpo_lab import TrainConfig, prepare
from dpo_lab.analysis.frontier_curve import FrontierCurve, distance
from dpo_lab.data.held_out import load_train_and_held_out
from dpo_lab.data.reviews import reward as true_reward
from dpo_lab.models.enumeration import enumerate_responses
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.reward import new_reward_model
from dpo_lab.models.sampling import sample
from dpo_lab.training.evaluation import evaluate
from dpo_lab.training.exact_metrics import MOST_PROMPTS, listed_values, world_of
from dpo_lab.training.history import History
from dpo_lab.training.outcome import measure_outcome
from dpo_lab.training.records import StepRecord
from dpo_lab.ui.figures.training_figure import training_figure
from dpo_lab.ui.html.run_status import notice


def _job(strength: float = 0.0, **settings):
    """Micro on reviews, its policy moved so that it runs on."""
    job = prepare(
        TrainConfig(kl_samples=40, eval_pairs=8, beta=0.05, **settings), keep_reference=True
    )
    job.reference.policy_moves()
    if strength:
        let_it_babble(job.policy, strength)
    return job


@pytest.fixture(scope="module")
def endless():
    return _job(20.0)


def _records(job) -> History:
    values = evaluate(job, 0.05, seed=0)
    return History([StepRecord(0, 0.0, 0, 0.05, 1e-3, values)])


def test_a_policy_that_runs_on_is_never_above_the_most_that_any_policy_scores(endless) -> None:
    """Forty-eight times "superb" was worth 96; the best listed answer, three times, is worth 6."""
    records = _records(endless)
    world = ResponseSpace.of(_job().policy, endless.prompts, true_reward)
    theory = FrontierCurve.of(world.frontier)
    figure = training_figure(records, theory=theory)
    drawn = {trace.meta: trace for trace in figure.data}
    kl, reward = float(drawn["path"].x[-1]), float(drawn["path"].y[-1])
    assert reward <= world.frontier.at_kl(kl).reward + 1e-6
    assert records.last("score/policy") <= world.frontier.at(0.0).reward
    assert measure_outcome(endless).after.mean <= 6
    share = int(distance(records, theory).split("%")[0].rsplit(" ", 1)[1])
    assert 0 < share <= 100


def test_the_mass_outside_is_measured_and_told_in_words(endless) -> None:
    records = _records(endless)
    beyond = records.last("listed/beyond")
    assert 0.9 < beyond <= 1
    words = notice(records, None)
    assert f"goes on after 3 words in {beyond:.0%} of 40 answers.</b> The frontier" in words
    # Drawn is the KL up to the third word; that of whole answers is many times as large.
    assert records.last("kl/per_token") > 3 * records.last("listed/kl")
    assert records.last("kl/cut") > 0  # so that more is not known of it
    kl, error = records.last("kl/per_token"), records.last("kl/per_token_stderr")
    assert f"a KL of at least about {kl:.3g} ± {error:.2g} nats" in words
    heads = [a.text for a in training_figure(records, theory=_theory(endless)).layout.annotations]
    assert any(f"{beyond:.0%} go on" in text for text in heads)


def test_the_share_outside_is_what_all_shorter_answers_leave() -> None:
    """Within 3 standard errors of one less the probability of every answer that ends in time."""
    job = _job(13.0, max_new_tokens=5)
    job.prompts = job.prompts[:1]
    (prompt,) = job.policy.encoder.prompts(job.prompts)
    exact = 1 - enumerate_responses(job.policy, prompt).logps.exp().sum().item()
    answers = sample(job.policy, [prompt] * 2000, max_new_tokens=5, seed=1)
    share = listed_values(job, answers)["listed/beyond"]
    assert 0.2 < exact < 0.8
    assert share == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 2000))


def _theory(job) -> FrontierCurve:
    return FrontierCurve.of(world_of(job).frontier)


def test_the_reference_goes_nowhere_and_nothing_is_said_of_it() -> None:
    records = _records(_job())
    assert records.last("listed/kl") == pytest.approx(0, abs=1e-9)
    assert records.last("listed/beyond") < 1e-9
    assert notice(records, None) == ""


def test_they_are_sums_over_every_answer_by_hand() -> None:
    job = _job(3.0)
    values, world = listed_values(job), ResponseSpace.of(_job().policy, job.prompts, true_reward)
    policy, reference = world.logps(job.policy), world.reference_logps
    share = policy.exp()
    kl = (share * (policy - reference)).sum(-1).mean().item()
    assert values["listed/kl"] == pytest.approx(kl, rel=1e-5) and kl > 0.1
    reward = (share * world.rewards).sum(-1).mean().item()
    assert values["listed/score"] == pytest.approx(reward, rel=1e-5)
    assert values["listed/score"] == pytest.approx(world.point(job.policy).reward, rel=1e-5)


def test_runs_share_a_world_and_other_prompts_or_scores_have_their_own() -> None:
    first, second = _job(), _job(seed=5)
    assert world_of(first) is world_of(second)
    second.reward_fn = lambda prompt, answer: -len(answer.split())
    assert world_of(first) is not world_of(second)
    assert world_of(second).rewards.min() == -3
    second.prompts = [f"the plot {verb}" for verb in ("was", "felt") * 10]
    assert len(world_of(second).prompts) == MOST_PROMPTS == 10


def test_nothing_is_listed_where_it_would_take_long_or_cannot_be() -> None:
    job = _job()
    for score_fn in (None, new_reward_model(job.policy)):
        job.reward_fn = score_fn
        assert world_of(job) is None and listed_values(job) == {}


def test_where_the_probability_went_is_counted_answer_by_answer() -> None:
    """Against every held-out pair's answers scored by themselves, and all pairs' texts in a set."""
    job = _job(3.0)
    values, world = listed_values(job), world_of(job)
    train, held_out = load_train_and_held_out("reviews")
    shown = {side for pair in (*train, *held_out[:8]) for side in (pair.chosen, pair.rejected)}
    shares = world.logps(job.policy).exp()
    own = none = 0.0
    for pair in held_out[:8]:
        row = shares[world.prompts.index(pair.prompt)].tolist()
        by_text = dict(zip(world.responses, row, strict=True))
        own += (by_text[pair.chosen] + by_text[pair.rejected]) / 8
        none += sum(share for text, share in by_text.items() if text not in shown) / 8
    assert values["listed/pairs_n"] == 8
    assert values["listed/own_pair"] == pytest.approx(own, rel=1e-5)
    assert values["listed/no_pair"] == pytest.approx(none, rel=1e-5) and none > 0.01
    assert values["listed/other_pairs"] == pytest.approx(1 - own - none, rel=1e-5)


def test_a_run_that_says_the_pairs_own_answers_more_is_not_told_that_probability_left_them() -> (
    None
):
    """Supervised on what pairs show, rare answers rise: log-ratios fall, nothing leaves the pairs.

    Over answers drawn from the reference the mean log-ratio is -KL(reference, policy), below 0 for
    any policy that moved at all.
    """
    chosen, shares = -3.2, {"own_pair": 0.03, "other_pairs": 0.96, "no_pair": 0.01}
    values = {f"listed/{name}": share for name, share in shares.items()} | {"listed/pairs_n": 9}
    values |= {"eval/logratios/chosen": chosen, "eval/logratios/rejected": -4.0}
    start = values | {"eval/logratios/chosen": 0.0, "eval/logratios/rejected": 0.0}
    moved = values | {"listed/other_pairs": 0.56, "listed/no_pair": 0.41}

    def words(*several: dict[str, float]) -> str:
        steps = enumerate(several)
        return notice(History([StepRecord(n, 0, n, 0.3, 1e-3, one) for n, one in steps]), None)

    stayed, left = words(start, values), words(start, moved)
    for said in (stayed, left):
        assert "chosen -3.20, rejected -4.00 nats" in said and "does not show" in said
    assert "no pair" not in stayed
    assert "from 1.0% to 41.0% for answers in no pair" in left and "9 held-out pairs" in left
    assert words(start) == words(start, start) == ""
