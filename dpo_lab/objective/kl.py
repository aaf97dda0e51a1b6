"""Estimators of KL(policy || reference): per-token and k3, with standard errors.

A KL of the policy is an expectation over the *policy's own* samples, at temperature 1 and with no
top-p or top-k. On the data set's responses the same arithmetic gives a log-ratio, not a KL.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over samples, with its standard errors.

    Samples of one prompt are correlated when prompts vary. So there are two standard errors: one
    for *prompts like these* (both prompts and samples could have been drawn differently), and one
    for *these prompts* (only the samples could).

    Attributes:
        mean: The estimate, nats for a KL.
        stderr: Standard error for prompts like these, clustered by prompt:
            `sqrt(G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2) / n` over G prompts; with one
            sample each it is `std / sqrt(n)`. NaN for a single prompt. With few prompts it is
            itself uncertain: use Student's t with G - 1 degrees of freedom.
        n: Number of samples.
        stderr_samples: Standard error for these prompts, `sqrt(sum_g n_g s_g^2) / n` with `s_g` the
            standard deviation within a prompt. NaN unless each has at least two samples.
        prompts: G, the number of prompts.

    Source:
        Liang and Zeger 1986; for evaluations Miller 2024, "Adding Error Bars to Evals"
        (arXiv 2411.00640), section 2.2.
    """

    mean: float
    stderr: float
    n: int
    stderr_samples: float = math.nan
    prompts: int = 0

    @classmethod
    def of(cls, values: Tensor, prompts: Sequence[Hashable] | None = None) -> Estimate:
        """Estimate from one value per sample.

        Args:
            values: `(n,)`, n at least 1.
            prompts: Prompt of each sample, or any key for it; by default samples are independent.

        Raises:
            ValueError: If there is no sample.
        """
        values = values.detach().cpu().double().flatten()
        n = len(values)
        if n == 0:
            raise ValueError("no samples: a mean needs at least one. Raise the number of samples.")
        mean = values.mean()
        group_of = {key: index for index, key in enumerate(dict.fromkeys(prompts or range(n)))}
        group = torch.tensor([group_of[key] for key in prompts or range(n)])
        zeros, count = torch.zeros(len(group_of), dtype=torch.float64), len(group_of)
        sums = zeros.index_add(0, group, values - mean)
        over_prompts = count / (count - 1) * sums.square().sum() if count > 1 else math.nan
        sizes = zeros.index_add(0, group, torch.ones_like(values))
        residuals = values - mean - (sums / sizes)[group]
        # 0 / 0 = NaN for a prompt with a single sample.
        variances = zeros.index_add(0, group, residuals.square()) / (sizes - 1)
        errors = [math.sqrt(total) / n for total in (over_prompts, (sizes * variances).sum())]
        return cls(mean.item(), errors[0], n, errors[1], count)


def token_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Exact KL(policy || reference) of the next token, summed over the vocabulary.

    Summed over the steps of a response sampled from the policy, it estimates the KL of whole
    responses: by the chain rule, `KL(pi || ref) = E_{y ~ pi}[sum_t KL(pi(.|y_<t) || ref(.|y_<t))]`.
    Only the prefixes are sampled and each step's expectation is exact, so the estimate is unbiased,
    never negative, and has less variance than the log-ratio.

    Args:
        policy_logits: `(tokens, vocabulary)`.
        reference_logits: `(tokens, vocabulary)`.

    Returns:
        `(tokens,)`, nats, never negative except by rounding.

    Source:
        Rafailov et al. 2023, section 6.1, whose sequence KL is the sum of the per-timestep KLs.
    """
    policy = policy_logits.log_softmax(dim=-1)
    reference = reference_logits.log_softmax(dim=-1)
    return (policy.exp() * (policy - reference)).sum(dim=-1)


def k3(log_ratios: Tensor) -> Tensor:
    """Schulman's k3, `pi_ref / pi - 1 - log(pi_ref / pi)`: never negative, and its mean is the KL.

    It is the plain log-ratio plus a control variate of mean zero that makes every value >= 0.
    Where policy and reference are far apart it has the largest variance of the three estimators,
    since `pi_ref / pi` may be huge on a rare sample.

    Args:
        log_ratios: `log pi(y|x) - log pi_ref(y|x)` of samples of the policy, any shape, nats.

    Returns:
        The same shape, nats.

    Source:
        Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return torch.expm1(-log_ratios) + log_ratios
