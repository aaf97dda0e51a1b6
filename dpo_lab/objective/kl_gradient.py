"""Which KL does a penalty estimate, and which does it descend? Exact, on a space of 7 responses.

A penalty whose mean is the KL need not have the KL's gradient: it depends on whether it is added to
the loss or taken off the reward, and on whether a token is credited with its own term only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of log-probabilities of policy and reference, `(responses, tokens)`, and the mask: `(responses,)`
or, for terms of single tokens, `(responses, tokens)`."""

WORLDS = 4
TOLERANCE = 1e-9
_TOKENS = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]])
"""All responses of at most two words of two (1 and 2); 0 ends one."""
_MASK = torch.tensor([[True, False], *[[True, True]] * 6])


@dataclass(frozen=True)
class KLCheck:
    """What a penalty is, compared in random worlds with the two KLs.

    Attributes:
        estimates: `KL(pi, ref)`, `KL(ref, pi)` or `neither`: what its mean under the policy is.
        value_error: Largest relative difference of its mean from KL(pi, ref).
        forward: Share of the gradient of KL(pi, ref) in its expected gradient.
        reverse: Share of the gradient of KL(ref, pi).
        residual: What is in neither, relative to the gradient of KL(pi, ref); the largest.
    """

    estimates: str
    value_error: float
    forward: float
    reverse: float
    residual: float

    @property
    def right(self) -> bool:
        """Whether it descends KL(pi, ref), the KL of the objective."""
        return self.residual < TOLERANCE and self._shares == (1.0, 0.0)

    @property
    def descends(self) -> str:
        """Which gradient it descends, in words."""
        if self.residual > TOLERANCE:
            return "no mixture of the gradients of KL(pi, ref) and KL(ref, pi)"
        known = {
            (1.0, 0.0): "the gradient of KL(pi, ref)",
            (0.0, 1.0): "the gradient of KL(ref, pi), the other KL",
            (0.0, 0.0): "nothing: its expected gradient is zero",
            (1.0, -1.0): "the gradient of KL(pi, ref) less that of KL(ref, pi), which vanishes "
            "near the reference",
        }
        forward, reverse = self._shares
        mixture = f"{forward:g} x the gradient of KL(pi, ref) + {reverse:g} x that of KL(ref, pi)"
        return known.get(self._shares, mixture)

    @property
    def _shares(self) -> tuple[float, float]:
        return round(self.forward, 6) + 0.0, round(self.reverse, 6) + 0.0

    def __str__(self) -> str:
        value = f"estimates {self.estimates}"
        if self.estimates == "neither":
            value = f"estimates neither KL (off by up to {self.value_error:.0%})"
        return f"{value}; descends {self.descends}"


def check_kl(penalty: Penalty, taken_as: str = "loss") -> KLCheck:
    """Find what a penalty estimates and descends, with expectations over all responses.

    Args:
        penalty: The penalty. If it gives a term for each token, as a reward each token is credited
            with its own term only, and as a loss the terms are added up.
        taken_as: `loss`: its gradient is descended. `reward`: it is taken off the reward of a
            policy gradient, without a gradient of its own.

    Returns:
        The comparison.

    Raises:
        ValueError: If `taken_as` is neither, or the penalty gives no finite float64 numbers.

    Source:
        The expected gradients of Tang and Munos 2025 (arXiv 2506.09477), Liu et al. 2025 (arXiv
        2510.01555).
    """
    if taken_as not in ("loss", "reward"):
        raise ValueError(f"taken_as={taken_as!r}: must be 'loss' or 'reward'.")
    found, forwards, reverses, errors, other_errors = [], [], [], [], []
    for seed in range(WORLDS):
        generator = torch.Generator().manual_seed(seed)
        logits, fixed = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
        logits.requires_grad_()
        policy, reference = _logps(logits), _logps(fixed)
        whole, whole_reference = policy.sum(-1), reference.sum(-1)
        probability = whole.exp()
        forward = (probability * (whole - whole_reference)).sum()
        reverse = (whole_reference.exp() * (whole_reference - whole)).sum()
        value = penalty(policy, reference, _MASK)
        if value.dtype != torch.float64 or not value.isfinite().all():
            raise ValueError(
                f"the penalty gives {value.dtype} with {int((~value.isfinite()).sum())} numbers "
                "that are not finite. It gets float64, and must keep it."
            )
        total = value if value.dim() == 1 else torch.where(_MASK, value, 0.0).sum(-1)
        if taken_as == "loss":
            descended = (probability.detach() * total).sum()
        elif value.dim() == 1:
            descended = (probability.detach() * value.detach() * whole).sum()
        else:
            own = torch.where(_MASK, value.detach() * policy, 0.0).sum(-1)
            descended = (probability.detach() * own).sum()
        found.append(_gradient(descended, logits))
        forwards.append(_gradient(forward, logits))
        reverses.append(_gradient(reverse, logits))
        mean = (probability * total).sum()
        errors.append(((mean - forward) / forward).abs().item())
        other_errors.append(((mean - reverse) / reverse).abs().item())
    basis = torch.stack([torch.cat(forwards), torch.cat(reverses)], dim=1)
    shares = torch.linalg.lstsq(basis, torch.cat(found)[:, None]).solution[:, 0]
    rest = torch.cat(found) - basis @ shares
    sizes = torch.stack(forwards).norm(dim=-1)
    residual = (rest.view(WORLDS, -1).norm(dim=-1) / sizes).max().item()
    estimates = "KL(pi, ref)" if max(errors) < TOLERANCE else "neither"
    if max(other_errors) < TOLERANCE:
        estimates = "KL(ref, pi)"
    return KLCheck(estimates, max(errors), *shares.tolist(), residual)


def _logps(logits: Tensor) -> Tensor:
    """Log-probabilities of the tokens of all responses, `(7, 2)`: row 0 is the first token's."""
    table = logits.log_softmax(-1)
    first = table[0, _TOKENS[:, 0]]
    second = table[_TOKENS[:, 0], _TOKENS[:, 1]]
    return torch.stack([first, torch.where(_MASK[:, 1], second, 0.0)], dim=-1)


def _gradient(value: Tensor, logits: Tensor) -> Tensor:
    """The gradient, flat; zero where the value does not depend on the logits."""
    if not value.requires_grad:
        return torch.zeros(logits.numel(), dtype=logits.dtype)
    return torch.autograd.grad(value, logits, retain_graph=True)[0].flatten()
