"""Log-probabilities of chosen and rejected responses, the input of every loss; f-divergences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

FDivergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
F_DIVERGENCES = get_args(FDivergence)
"""Divergences that f-DPO may regularise with, by TRL's names; DPO's is `reverse_kl`."""

LOGPS = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
"""The four log-probabilities of `PairLogps`, by name."""

LARGEST_EXPONENT = 40.0
"""Largest exponent of a power of the ratio: the square of e^40 is still finite in float32."""


@dataclass(frozen=True)
class PairLogps:
    """Sequence log-probabilities of a batch of pairs, each `(pairs,)`, nats, summed over tokens.

    Attributes:
        policy_chosen: `log pi(y_w|x)`.
        policy_rejected: `log pi(y_l|x)`.
        reference_chosen: `log pi_ref(y_w|x)`.
        reference_rejected: `log pi_ref(y_l|x)`.
        chosen_lengths: Scored tokens of the chosen responses; for losses that divide by them.
        rejected_lengths: The same for the rejected responses.
        mean_chosen_length: Mean of `chosen_lengths` over the optimiser's batch, if these pairs are
            only a part of it; by default over these pairs.
        score_margins: Score of the chosen response minus that of the rejected, as the data has
            them; for losses that use scores.
        rankings: A number for each pair: the same where prompt and chosen response are; for losses
            of rankings.
        baseline: What losses of single responses compare a log-ratio with, nats.

    Raises:
        ValueError: If the shapes differ.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None
    mean_chosen_length: float | None = None
    score_margins: Tensor | None = None
    rankings: Tensor | None = None
    baseline: float = 0.0

    def __post_init__(self) -> None:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        shapes = {name: tuple(values.shape) for name, values in tensors.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"shapes {shapes}: broadcasting would mix the pairs. Pass one value a pair in each."
            )

    @classmethod
    def at_reference(cls) -> PairLogps:
        """One pair, one token each, on which policy and reference agree; its scores differ by 1."""
        zero, one = torch.zeros(1), torch.ones(1)
        return cls(zero - 1, zero - 1, zero - 1, zero - 1, one, one, score_margins=one)

    @classmethod
    def joined(cls, parts: Sequence[PairLogps]) -> PairLogps:
        """The parts of an optimiser's batch concatenated, in their order."""
        names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        first = parts[0]
        return cls(**whole, mean_chosen_length=first.mean_chosen_length, baseline=first.baseline)

    def detach(self) -> PairLogps:
        """The same without gradient."""
        return self.with_policy(self.policy_chosen.detach(), self.policy_rejected.detach())

    def with_policy(self, chosen: Tensor, rejected: Tensor) -> PairLogps:
        """The same with other log-probabilities of the policy, each `(pairs,)`, nats."""
        return replace(self, policy_chosen=chosen, policy_rejected=rejected)

    @property
    def turned(self) -> PairLogps:
        """The same with each pair's label turned around; rankings are not known then."""
        return replace(
            self,
            score_margins=None if self.score_margins is None else -self.score_margins,
            rankings=None,
            policy_chosen=self.policy_rejected,
            policy_rejected=self.policy_chosen,
            reference_chosen=self.reference_rejected,
            reference_rejected=self.reference_chosen,
            chosen_lengths=self.rejected_lengths,
            rejected_lengths=self.chosen_lengths,
        )

    @property
    def chosen_logratios(self) -> Tensor:
        """`log pi(y_w|x) - log pi_ref(y_w|x)`, `(pairs,)`, nats."""
        return self.policy_chosen - self.reference_chosen

    @property
    def rejected_logratios(self) -> Tensor:
        """`log pi(y_l|x) - log pi_ref(y_l|x)`, `(pairs,)`, nats."""
        return self.policy_rejected - self.reference_rejected

    @property
    def margins(self) -> Tensor:
        """Chosen minus rejected log-ratio, not scaled by beta, `(pairs,)`, nats."""
        return self.chosen_logratios - self.rejected_logratios

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Scored tokens of the chosen and of the rejected responses, each `(pairs,)`.

        Raises:
            ValueError: If they were not given.
        """
        if self.chosen_lengths is None or self.rejected_lengths is None:
            raise ValueError(
                "chosen_lengths=None: this loss divides by the number of tokens. "
                "Give chosen_lengths and rejected_lengths."
            )
        return self.chosen_lengths, self.rejected_lengths

    def per_token(self) -> PairLogps:
        """The same with means over tokens in place of sums.

        Raises:
            ValueError: If the numbers of tokens were not given.
        """
        chosen, rejected = self.lengths
        return replace(
            self,
            policy_chosen=self.policy_chosen / chosen,
            policy_rejected=self.policy_rejected / rejected,
            reference_chosen=self.reference_chosen / chosen,
            reference_rejected=self.reference_rejected / rejected,
        )

    def with_f_divergence(self, divergence: FDivergence, alpha: float = 0.5) -> PairLogps:
        """The same with each log-ratio `log u` replaced by the score `f'(u)` of an f-divergence.

        The policy that maximises reward minus `beta * D_f(pi || pi_ref)` has
        `r = beta * f'(pi / pi_ref)` up to a function of the prompt, so a loss of reward margins
        becomes one of score margins: `log u` is that of the reverse KL, `1 - 1/u` of the forward
        KL, `log(2u / (1 + u))` of Jensen-Shannon, `(u^(alpha - 1) - 1) / (alpha - 1)` of the alpha
        divergence.

        Args:
            divergence: One of `F_DIVERGENCES`.
            alpha: Of the alpha divergence; 1 gives the reverse KL, 0 the forward KL.

        Returns:
            Pairs whose policy values are the scores and whose reference values are 0.

        Raises:
            ValueError: If the divergence is unknown or alpha is not finite.

        Source:
            Wang et al. 2023 (f-DPO, arXiv 2309.16240).

        Note:
            Alpha is as in TRL 1.16; older code and the paper use `1 - alpha`. Scores are clipped
            where the power of the ratio exceeds e^40, so a response that has fallen that far gets
            no gradient.
        """
        if divergence not in F_DIVERGENCES:
            raise ValueError(
                f"f_divergence_type={divergence!r}: unknown. Use one of {', '.join(F_DIVERGENCES)}."
            )
        if not -LARGEST_EXPONENT < alpha < LARGEST_EXPONENT:
            raise ValueError(
                f"f_alpha_divergence_coef={alpha!r}: must be a number of ordinary size. "
                "0.5 is TRL's default; 1 is the reverse KL."
            )
        if divergence == "reverse_kl":
            return self
        ratios = self.chosen_logratios, self.rejected_logratios
        chosen, rejected = (_score(ratio, divergence, alpha) for ratio in ratios)
        zero = torch.zeros_like(chosen)
        return replace(
            self,
            policy_chosen=chosen,
            policy_rejected=rejected,
            reference_chosen=zero,
            reference_rejected=zero,
        )


def _score(log_ratio: Tensor, divergence: str, alpha: float) -> Tensor:
    """`f'(u)` of `u = exp(log_ratio)`, without forming `u` where it may overflow."""
    if divergence == "js_divergence":
        return F.logsigmoid(log_ratio) - F.logsigmoid(torch.zeros_like(log_ratio))
    power = -1.0 if divergence == "forward_kl" else alpha - 1
    if abs(power) < 1e-6:
        return log_ratio
    return torch.expm1((power * log_ratio).clamp(max=LARGEST_EXPONENT)) / power


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float) -> Tensor:
    """Implicit reward `r(x, y) = beta * log(pi(y|x) / pi_ref(y|x))`, without gradient.

    Args:
        policy_logps: `(responses,)`, nats.
        reference_logps: `(responses,)`, nats.
        beta: As in the loss.

    Returns:
        `(responses,)`.

    Source:
        Rafailov et al. 2023, Eq. 5, without `beta * log Z(x)`, which is the same for both responses
        to a prompt.
    """
    return beta * (policy_logps - reference_logps).detach()
