"""Pairs' log-probabilities to the numbers that are logged, by TRL's keys and ours.

| key | unit | what |
|---|---|---|
| `loss` | nats for `sigmoid` | mean over pairs |
| `rewards/chosen`, `rewards/rejected` | | mean of beta x log-ratio |
| `rewards/margins` | | mean of chosen minus rejected reward; `_p10`, `_p90`: over pairs |
| `rewards/accuracies` | share | pairs whose chosen reward is the greater, as TRL counts: strictly |
| `logps/chosen`, `logps/rejected` | nats | mean of `log pi(y|x)` |
| `logratios/chosen`, `logratios/rejected` | nats | mean over the data's responses; not a KL |
| `logratios/chosen_negative` | share | pairs whose chosen log-ratio is below 0 |
| `gradient_weight` | | mean push of a pair; 0.5 at the start of `sigmoid` |
| `router/aux_loss` | | unevenness of the experts, where `router_aux_loss_coef` is given |
| `grad_norm` | | norm of the whole batch's gradient, before clipping |
| `change/learning_rate` | | the new peak, on the first step that a change in mid-run took effect |

Before the first step, in step 0 and in the record of step 1, all rewards are ties (`at_start`), so
`rewards/accuracies` reads 0 there: no pair has a winner yet.

With `ld_alpha` every log-probability here is the weighted sum that the loss sees. With
`use_weighting` the training `loss` and `gradient_weight` are weighed as WPO does, `eval/loss` is
not, so that it can be compared over time. Rewards are beta x log-ratio under every loss and
divergence; what that means is told by `LOSSES[...].rewards`, and under another divergence
than the reverse KL it is not the reward that the loss compares, `beta * f'(ratio)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpo_lab.objective.pair_logps import PairLogps

ROUNDING = 1e-4
"""Nats: a log-ratio smaller than this is the rounding of float32, and has not fallen."""


def pair_metrics(
    losses: Tensor, pairs: PairLogps, weights: Tensor, beta: float
) -> dict[str, float]:
    """Metrics of a whole batch (all its micro-batches together).

    Args:
        losses: `(pairs,)`.
        pairs: Log-probabilities, each `(pairs,)`, without gradient.
        weights: `(pairs,)`, of `gradient_weight`.
        beta: The beta in use.

    Returns:
        One float a key of the table above, but the last two.
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
    """Linear between the two nearest; `torch.quantile` takes longer than a step's loss."""
    place = (len(ordered) - 1) * share
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
