"""What each loss is said to be, checked by another computation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, loss_and_grads

RATIOS = torch.linspace(-4, 4, 9, dtype=torch.float64)


def pairs_of(chosen, rejected, tokens: float = 1.0) -> PairLogps:
    """Pairs of given log-ratios and lengths; the reference gives -5 and -6."""
    chosen, rejected = torch.broadcast_tensors(
        *(torch.as_tensor(side, dtype=torch.float64) for side in (chosen, rejected))
    )
    lengths = torch.full_like(chosen, tokens)
    return PairLogps(
        chosen - 5, rejected - 6, torch.full_like(chosen, -5), torch.full_like(chosen, -6),
        lengths, lengths,
    )  # fmt: skip


def grid() -> PairLogps:
    """Every combination of two log-ratios."""
    return pairs_of(*torch.cartesian_prod(RATIOS, RATIOS).T)


def test_averaged_losses_are_the_summed_ones_at_another_beta():
    """With N tokens on both sides, m / N - 1 / (2 tau) = (m - 1 / (2 tau / N)) / N."""
    pairs = replace(
        grid(), chosen_lengths=torch.full((81,), 5.0), rejected_lengths=torch.full((81,), 5.0)
    )
    dpo, ipo = LOSSES["sigmoid"](pairs, 0.3 / 5), LOSSES["ipo"](pairs, 0.3 / 5) / 25
    torch.testing.assert_close(LOSSES["sigmoid_norm"](pairs, 0.3), dpo)
    torch.testing.assert_close(LOSSES["ipo_norm"](pairs, 0.3), ipo)


@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.4])
def test_robust_is_unbiased_under_flipped_labels(flipped):
    kept = grid()
    other = PairLogps(
        kept.policy_rejected, kept.policy_chosen, kept.reference_rejected, kept.reference_chosen
    )
    robust = [LOSSES["robust"](pairs, 0.7, label_smoothing=flipped) for pairs in (kept, other)]
    mean = (1 - flipped) * robust[0] + flipped * robust[1]
    torch.testing.assert_close(mean, LOSSES["sigmoid"](kept, 0.7))


def test_exo_is_the_reverse_kl_and_conservative_dpo_the_forward():
    pairs, label = grid(), torch.tensor([0.9, 0.1], dtype=torch.float64)
    choice = torch.stack([0.7 * pairs.margins, -0.7 * pairs.margins]).sigmoid()
    smooth = {"label_smoothing": 0.1}
    reverse = F.kl_div(label.log()[:, None].expand_as(choice), choice, reduction="none").sum(0)
    torch.testing.assert_close(LOSSES["exo_pair"](pairs, 0.7, **smooth), reverse)
    forward = F.kl_div(choice.log(), label[:, None].expand_as(choice), reduction="none").sum(0)
    entropy = -(label * label.log()).sum()
    torch.testing.assert_close(LOSSES["sigmoid"](pairs, 0.7, **smooth) - entropy, forward)
    with pytest.raises(ValueError, match="label_smoothing=0: exo_pair takes the logarithm"):
        LOSSES["exo_pair"](pairs, 0.7, label_smoothing=0)


def test_discopop_goes_from_logistic_to_exponential_and_survives_both_ends():
    beyond = pairs_of([-3.0, 3.0], [0.0, 0.0])
    logistic, exponential = math.log1p(math.exp(3)), math.exp(-3)
    torch.testing.assert_close(
        LOSSES["discopop"](beyond, 1.0), torch.tensor([logistic, exponential], dtype=torch.float64)
    )
    far = pairs_of([-1e4, 1e4], [0.0, 0.0])
    far = PairLogps(*(value.float() for value in vars(far).values() if torch.is_tensor(value)))
    naive = torch.sigmoid(far.margins / 0.05) * torch.exp(-far.margins)
    assert naive[0].isnan()
    losses, slopes = loss_and_grads(LOSSES["discopop"], far, 1.0)
    torch.testing.assert_close(losses, torch.tensor([1e4, 0.0]))
    torch.testing.assert_close(slopes[0], torch.tensor([-1.0, 0.0]))


def test_dpop_is_dpo_where_the_chosen_rises_and_pushes_harder_where_it_falls():
    pairs, beta, weight = grid(), 0.7, 5.0
    dpop = LOSSES["dpop"](pairs, beta, dpop_lambda=weight)
    torch.testing.assert_close(
        LOSSES["dpop"](pairs, beta, dpop_lambda=0.0), LOSSES["sigmoid"](pairs, beta)
    )
    rose, fell = pairs.chosen_logratios >= 0, pairs.chosen_logratios < 0
    torch.testing.assert_close(dpop[rose], LOSSES["sigmoid"](pairs, beta)[rose])
    # Where it fell, the chosen log-ratio counts 1 + lambda times.
    counted = (1 + weight) * pairs.chosen_logratios[fell] - pairs.rejected_logratios[fell]
    torch.testing.assert_close(dpop[fell], -F.logsigmoid(beta * counted))


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_anchored_losses_stop_where_they_say(beta):
    """NCA at a chosen reward of ln 2; SPPO at +-1 / (2 beta)."""
    slopes = loss_and_grads(LOSSES["nca_pair"], pairs_of(math.log(2) / beta, -1.0), beta)[1]
    assert slopes[0].abs().item() < 1e-12 and slopes[1] > 0
    best = pairs_of(1 / (2 * beta), -1 / (2 * beta))
    assert LOSSES["sppo_hard"](best, beta).item() < 1e-20
    assert not loss_and_grads(LOSSES["sppo_hard"], best, beta)[1].abs().max() > 1e-12


def test_bco_bounds_dpo_from_above_and_apo_zero_is_symmetric():
    pairs = grid()
    other = pairs_of(pairs.rejected_logratios, pairs.chosen_logratios)
    assert (LOSSES["bco_pair"](pairs, 0.7) >= LOSSES["sigmoid"](pairs, 0.7)).all()
    both = LOSSES["apo_zero"](pairs, 0.7) + LOSSES["apo_zero"](other, 0.7)
    torch.testing.assert_close(both, torch.full_like(both, 2))
    # On a pair that it ranks well already, apo_down lowers the chosen response, apo_zero raises it.
    won = pairs_of(0.0, -9.0)
    down, zero = (loss_and_grads(LOSSES[name], won, 1.0)[1] for name in ("apo_down", "apo_zero"))
    assert down[0] > 0 > zero[0]


def test_aot_is_optimal_transport():
    """Of all ways to match the two samples, the sorted one costs least (the cost is convex)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    pairs, beta = PairLogps(*values), 0.7

    def cheapest(ours, theirs):
        orders = (list(order) for order in permutations(range(5)))
        return min(-F.logsigmoid(beta * (ours - theirs[order])).mean().item() for order in orders)

    policy, reference = values[0] - values[1], values[2] - values[3]
    assert LOSSES["aot"](pairs, beta).mean().item() == pytest.approx(cheapest(policy, reference))
    sides = pairs.chosen_logratios, pairs.rejected_logratios
    unpaired = LOSSES["aot_unpaired"](pairs, beta).mean().item()
    assert unpaired == pytest.approx(cheapest(*sides))


def test_sft_is_the_mean_over_the_tokens_of_the_batch_however_it_is_cut():
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.rand(n, generator=generator).log() for n in (3, 1, 4)]
    sums, lengths = torch.stack([some.sum() for some in tokens]), torch.tensor([3.0, 1.0, 4.0])
    pairs = PairLogps(sums, sums, sums, sums, lengths, lengths)
    whole = LOSSES["sft"](pairs, 0.1)
    torch.testing.assert_close(whole.mean(), -torch.cat(tokens).mean())
    part = PairLogps(*([sums[:2]] * 4), lengths[:2], lengths[:2], lengths.mean().item())
    torch.testing.assert_close(LOSSES["sft"](part, 0.1), whole[:2])
    with pytest.raises(ValueError, match="chosen_lengths=None: this loss divides by"):
        LOSSES["sft"](PairLogps(sums, sums, sums, sums), 0.1)


def test_simpo_and_cpo_are_dpo_against_a_reference_that_has_no_preference():
    pairs = grid()
    flat = replace(
        pairs, reference_chosen=0 * pairs.policy_chosen, reference_rejected=0 * pairs.policy_chosen
    )
    dpo = LOSSES["sigmoid"](flat, 0.7)
    torch.testing.assert_close(LOSSES["simpo"](pairs, 0.7, simpo_gamma=0.0), dpo)
    torch.testing.assert_close(LOSSES["cpo"](pairs, 0.7, cpo_alpha=0.0), dpo)
    torch.testing.assert_close(LOSSES["cpo"](pairs, 0.7) - dpo, LOSSES["sft"](pairs, 0.7))
    # A margin asked for makes the loss larger, as a smaller difference does.
    shifted = replace(flat, policy_chosen=flat.policy_chosen - 0.4 / 0.7)
    torch.testing.assert_close(
        LOSSES["simpo"](pairs, 0.7, simpo_gamma=0.4), LOSSES["sigmoid"](shifted, 0.7)
    )


def test_orpo_is_the_odds_ratio_and_exact_where_the_plain_formula_is_not():
    logps = torch.tensor([-0.01, -0.7, -3.0], dtype=torch.float64), torch.tensor([-2.0, -0.6, -4.0])
    one = torch.ones(3, dtype=torch.float64)
    pairs = PairLogps(*logps, *logps, one, one)
    odds = [logp.double().exp() / (1 - logp.double().exp()) for logp in logps]
    plain = -logps[0] - 0.7 * F.logsigmoid((odds[0] / odds[1]).log())
    torch.testing.assert_close(LOSSES["orpo"](pairs, 0.7), plain)
    edge = torch.tensor([-1e-7, -1e-7, -200.0])
    other, one = torch.tensor([-1.0, -200.0, -1e-7]), torch.ones(3)
    assert (1 - edge.exp())[0] != -torch.expm1(edge)[0]  # 1 - e^a has lost its digits
    extreme = PairLogps(edge, other, edge, other, one, one)
    losses, slopes = loss_and_grads(LOSSES["orpo"], extreme, 0.7)
    assert losses.isfinite().all() and slopes.isfinite().all()


# name, f'(u) of a divergence in its plain form, and its generator f.
F_DIVERGENCES = [
    ("reverse_kl", {}, torch.log, lambda u: u * u.log()),
    ("forward_kl", {}, lambda u: 1 - 1 / u, lambda u: -u.log()),
    ("js_divergence", {}, lambda u: (2 * u / (1 + u)).log(),
     lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log()),
    ("alpha_divergence", {"f_alpha_divergence_coef": 0.3}, lambda u: (u**-0.7 - 1) / -0.7,
     lambda u: (u**0.3 - 0.3 * u - 0.7) / (0.3 * -0.7)),
]  # fmt: skip


@pytest.mark.parametrize("name, options, slope, _", F_DIVERGENCES)
def test_scores_are_the_slope_of_the_divergence(name, options, slope, _):
    pairs = grid()
    scores = slope(pairs.chosen_logratios.exp()) - slope(pairs.rejected_logratios.exp())
    options = {"f_divergence_type": name, **options}
    torch.testing.assert_close(
        LOSSES["sigmoid"](pairs, 0.7, **options), -F.logsigmoid(0.7 * scores)
    )
    torch.testing.assert_close(LOSSES["hinge"](pairs, 0.7, **options), (1 - 0.7 * scores).relu())


@pytest.mark.parametrize("name, options, _, generator", F_DIVERGENCES)
def test_the_optimum_under_a_divergence_has_the_reward_that_the_loss_assumes(
    name, options, _, generator
):
    """Maximise E[r] - beta D_f over four responses: its margins are those of the rewards."""
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    rewards, beta = torch.tensor([0.0, 0.5, 1.0, -0.7], dtype=torch.float64), 0.8
    logits = reference.log().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def negative_objective():
        optimizer.zero_grad()
        policy = logits.softmax(0)
        spread = (reference * generator(policy / reference)).sum()
        value = beta * spread - policy @ rewards
        value.backward()
        return value

    optimizer.step(negative_objective)
    logps = logits.detach().log_softmax(0)
    first, second = torch.triu_indices(4, 4, 1)
    pairs = PairLogps(logps[first], logps[second], reference.log()[first], reference.log()[second])
    margins = pairs.with_f_divergence(name, options.get("f_alpha_divergence_coef", 0.5)).margins
    torch.testing.assert_close(beta * margins, rewards[first] - rewards[second], rtol=0, atol=1e-6)


def test_alpha_divergence_has_the_two_kls_at_its_ends_and_does_not_overflow():
    pairs = grid()
    for alpha, name in ((1.0, "reverse_kl"), (0.0, "forward_kl")):
        ours = pairs.with_f_divergence("alpha_divergence", alpha).margins
        torch.testing.assert_close(ours, pairs.with_f_divergence(name).margins)
    far = pairs_of([500.0, -500.0], [-500.0, 500.0])
    for name in ("forward_kl", "alpha_divergence", "js_divergence"):
        assert far.with_f_divergence(name).margins.isfinite().all()
    # Squared losses of them are float32 numbers still.
    squared = replace(far, **{k: v.float() for k, v in vars(far).items() if torch.is_tensor(v)})
    for name in ("forward_kl", "alpha_divergence"):
        for loss in ("ipo", "ipo_norm"):
            assert LOSSES[loss](squared, 0.1, f_divergence_type=name).isfinite().all()
    with pytest.raises(ValueError, match="f_divergence_type='kl': unknown. Use one of reverse_kl"):
        pairs.with_f_divergence("kl")
