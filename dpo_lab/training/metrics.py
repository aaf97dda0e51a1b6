"""The logged metrics of a batch of pairs, under TRL's keys and ours.

| key | unit | what |
|---|---|---|
| `loss` | nats for `sigmoid` | mean over pairs |
| `rewards/chosen`, `rewards/rejected` | | mean of beta x log-ratio |
| `rewards/margins` | | mean of chosen minus rejected reward; `_p10`, `_p90`: percentiles |
| `rewards/accuracies` | share | pairs whose chosen reward is strictly greater, as in TRL |
| `logps/chosen`, `logps/rejected` | nats | mean of `log pi(y|x)` |
| `logratios/chosen`, `logratios/rejected` | nats | mean over the data's responses; not a KL |
| `logratios/chosen_negative` | share | pairs whose chosen log-ratio is below 0 |
| `gradient_weight` | | mean gradient weight of a pair; 0.5 at the start of `sigmoid` |
| `router/aux_loss` | | load-balancing loss of the experts, if `router_aux_loss_coef` is given |
| `grad_norm` | | norm of the whole batch's gradient, before clipping |
| `change/learning_rate` | | the new peak, on the first step after a change during the run |

Methods that sample answers of the policy add, over the answers of a step:

| key | unit | what |
|---|---|---|
| `on_policy/reward` | | mean reward; `_stderr` over prompts |
| `on_policy/objective` | | reward minus beta x `on_policy/kl`: an estimate of J |
| `on_policy/kl` | nats | mean log-ratio to the reference, k1; a sample's may be below 0 |
| `on_policy/entropy` | nats per token | mean of `-log pi` of the sampled tokens |
| `on_policy/tokens` | tokens | mean length of an answer |
| `on_policy/cut` | share | answers cut at the length limit |
| `on_policy/equal` | share | groups whose rewards are all equal: no gradient, but for the KL's |
| `on_policy/samples` | | answers drawn in this step |
| `on_policy/labels` | | pairs labelled in this step, if the method labels them |

Policy gradients have no `loss` and nothing else of pairs but on held-out ones.

Before the first update (step 0 and the record of step 1) all rewards are ties (`at_start`), so
`rewards/accuracies` is 0 there: no pair has a winner yet.

With `ld_alpha` every log-probability here is the weighted sum that the loss uses. With
`use_weighting` the training `loss` and `gradient_weight` have WPO's weights; `eval/loss` does not,
so that it can be compared over time. Rewards are beta x log-ratio under every loss and divergence;
see `LOSSES[...].rewards` for their meaning. With an f-divergence other than the reverse KL they are
not the rewards that the loss compares, `beta * f'(ratio)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpo_lab.objective.pair_logps import PairLogps

ROUNDING = 1e-4
"""Nats: a fall of a log-ratio smaller than this is float32 rounding, and does not count."""


def pair_metrics(
    losses: Tensor, pairs: PairLogps, weights: Tensor, beta: float
) -> dict[str, float]:
    """Metrics of a whole batch (all its micro-batches together).

    Args:
        losses: `(pairs,)`.
        pairs: Log-probabilities, each `(pairs,)`, without gradient.
        weights: `(pairs,)`, from `gradient_weight`.
        beta: The beta in use.

    Returns:
        One float for each key of the table above except the last three.
    """
    chosen, rejected = pairs.chosen_logratios, pairs.rejected_logratios
    ordered = (chosen - rejected).sort().values.tolist()
    named = {
        "loss": losses,
        "logps/chosen": pairs.policy_chosen,
        "logps/rejected": pairs.policy_rejected,
        "logratios/chosen": chosen,
        "logratios/rejected": rejected,
        "gradient_weight": weights,
    }
    means = dict(zip(named, torch.stack(list(named.values())).mean(dim=1).tolist(), strict=True))
    rewards = ((beta * chosen).tolist(), (beta * rejected).tolist())
    right = sum(won > lost for won, lost in zip(*rewards, strict=True))
    fell = sum(ratio < -ROUNDING for ratio in chosen.tolist())
    chosen_mean, rejected_mean = means["logratios/chosen"], means["logratios/rejected"]
    return means | {
        "rewards/chosen": beta * chosen_mean,
        "rewards/rejected": beta * rejected_mean,
        "rewards/margins": beta * (chosen_mean - rejected_mean),
        "rewards/margins_p10": beta * _quantile(ordered, 0.1),
        "rewards/margins_p90": beta * _quantile(ordered, 0.9),
        "rewards/accuracies": right / len(ordered),
        "logratios/chosen_negative": fell / len(ordered),
    }


def _quantile(ordered: list[float], share: float) -> float:
    """Quantile with linear interpolation; `torch.quantile` takes longer than a step's loss."""
    position = (len(ordered) - 1) * share
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
