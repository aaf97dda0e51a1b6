"""The registry of losses: `LOSSES`, the decorator `register`, weighted sums, gradients.

To add a loss, decorate its function with `register`. The training loop, the command line, the
workbench and the documentation read names, options and texts from `LOSSES`, which is complete
once `dpo_lab.objective` is imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from dpo_lab.objective.pair_logps import PairLogps

F_DIVERGENCE_DEFAULTS = {"f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5}
"""Options of the losses that take an f-divergence, with their defaults."""
TESTED = "tested"
"""With a value and a gradient derived by hand, an identity, and finite differences in float64."""
UNTIED = TESTED + "; no reference holds the policy"

DPO_REWARD = "implicit reward of the policy, up to a function of the prompt"
NOT_A_REWARD = "beta x log-ratio, for reading margins; not a Bradley-Terry reward"
NO_REFERENCE = "beta x log-ratio to where the policy began, not what the loss rewards"

SUMS = ("sigmoid + 0.2 sft", "0.8 sigmoid + 0.2 bco_pair + sft")
"""Weighted sums in common use: DPO plus SFT on the chosen (Pang et al. 2024), and MPO."""

_TERM = re.compile(r"\s*([0-9]*\.?[0-9]+)?\s*\*?\s*([a-z_]+)\s*")


@dataclass(frozen=True)
class Loss:
    """One entry of `LOSSES`, or a weighted sum of entries.

    Attributes:
        function: `(pairs, beta, **options)` to `(pairs,)`.
        title: Common name of the loss.
        formula: In the terms of the glossary.
        citation: Paper and equation.
        arxiv: The paper's arXiv number, or empty.
        rewards: What the logged `rewards/...` mean under this loss.
        own_options: Keyword options besides beta, with their defaults, from the signature; without
            the f-divergence options, which `options` adds.
        of_margin: Whether it is a function of the margin alone, so that f-divergence scores may
            replace the log-ratios: terms that depend only on the prompt cancel. (In `sigmoid_norm`
            and `ipo_norm` they cancel only for responses of equal length; TRL allows those too.)
            False for a sum: see its `options`.
        couples_pairs: Whether a value depends on other pairs of the optimiser's batch, other than
            through the batch's mean length.
        reference_free: Whether it ignores the reference.
        uses_lengths: Whether it divides by numbers of tokens.
        uses_scores: Whether it needs the scores of both responses.
        ranked: Whether it needs to know which pairs have prompt and chosen response in common.
        unpaired: Whether it is one of single responses, each good or bad.
        bradley_terry: Whether its reward is a Bradley-Terry reward: given enough pairs with labels
            drawn from Bradley-Terry, its optimum is pi* at beta.
        trl: Name in TRL 1.16, or empty.
        status: How it was tested, and what to know before use.
        members: The losses that a sum adds up; empty for a single loss.
    """

    function: Callable[..., Tensor]
    title: str
    formula: str
    citation: str
    arxiv: str
    rewards: str
    own_options: Mapping[str, Any] = field(default_factory=dict)
    of_margin: bool = False
    couples_pairs: bool = False
    reference_free: bool = False
    uses_lengths: bool = False
    uses_scores: bool = False
    ranked: bool = False
    unpaired: bool = False
    bradley_terry: bool = False
    trl: str = ""
    status: str = TESTED
    members: tuple[Loss, ...] = ()

    @property
    def has_initial_value(self) -> bool:
        """Whether every pair has the same value where the policy equals the reference."""
        members = self.members or (self,)
        return not any(loss.reference_free or loss.uses_scores or loss.unpaired for loss in members)

    @property
    def options(self) -> dict[str, Any]:
        """Every keyword option with its default."""
        return {**self.own_options, **(F_DIVERGENCE_DEFAULTS if self.of_margin else {})}

    def __call__(self, pairs: PairLogps, beta: float, **options: Any) -> Tensor:
        """Loss of every pair, `(pairs,)`.

        Args:
            pairs: Log-probabilities, each `(pairs,)`.
            beta: As in the loss.
            **options: As named in `options`.

        Raises:
            TypeError: If the loss has no such option.
            ValueError: If a value is out of range.
        """
        if self.of_margin:
            divergence = [
                options.pop(name, default) for name, default in F_DIVERGENCE_DEFAULTS.items()
            ]
            pairs = pairs.with_f_divergence(*divergence)
        return self.function(pairs, beta, **options)


LOSSES: dict[str, Loss] = {}
"""Every loss by name: TRL's name where TRL has the loss, but TRL's `ipo` is `ipo_norm` here."""

LossFunction = TypeVar("LossFunction", bound=Callable[..., Tensor])


def register(name: str, **texts: Any) -> Callable[[LossFunction], LossFunction]:
    """Add a loss function to `LOSSES`; its arguments with defaults are its options.

    Args:
        name: The name that `--loss` takes.
        **texts: The attributes of `Loss` other than its function and options.

    Raises:
        ValueError: If the name is already registered.
    """

    def add(function: LossFunction) -> LossFunction:
        if name in LOSSES:
            raise ValueError(f"loss {name!r}: is already registered. Use another name.")
        parameters = inspect.signature(function).parameters.values()
        options = {p.name: p.default for p in parameters if p.default is not p.empty}
        LOSSES[name] = Loss(function, own_options=options, **texts)
        return function

    return add


def all_options() -> dict[str, Any]:
    """Every option of any loss, with its default in the first loss that takes it."""
    return {k: v for loss in reversed(LOSSES.values()) for k, v in loss.options.items()}


@cache
def find_loss(name: str) -> Loss:
    """A loss by its name, or a weighted sum such as `sigmoid + 0.2 sft`.

    Each member of a sum gets the options that it knows, and uses its own default for one that is
    not given.

    Args:
        name: A name in `LOSSES`, or several joined by `+`, each with an optional weight before it.

    Raises:
        ValueError: If a name is unknown, or a weight is not a positive number.
    """
    weighted = []
    for part in name.split("+"):
        term = _TERM.fullmatch(part)
        if term is None or term[2] not in LOSSES:
            raise ValueError(
                f"loss={name!r}: {part.strip()!r} is unknown. Use one of {', '.join(LOSSES)}; or a "
                "weighted sum, such as 'sigmoid + 0.2 sft'."
            )
        weighted.append((float(term[1] or 1), LOSSES[term[2]]))
    if any(weight <= 0 for weight, _ in weighted):
        raise ValueError(f"loss={name!r}: a weight is not above 0. Leave that loss out.")
    single = [loss.title for _, loss in weighted if loss.unpaired]
    if single and [weight for weight, _ in weighted] != [1.0]:
        raise ValueError(
            f"loss={name!r}: {single[0]} is a loss of single responses, which have nothing in "
            "common with pairs. Use it alone, without a weight."
        )
    return weighted[0][1] if weighted == [(1.0, weighted[0][1])] else _weighted_sum(weighted)


def _weighted_sum(weighted: list[tuple[float, Loss]]) -> Loss:
    members = [loss for _, loss in weighted]
    # With an f-divergence in only some terms, two divergences would regularise the policy.
    divergences = all(loss.of_margin or loss.reference_free for loss in members)
    known = {k: v for loss in reversed(members) for k, v in loss.options.items()}
    if not divergences:
        known = {k: v for k, v in known.items() if k not in F_DIVERGENCE_DEFAULTS}

    def total(pairs: PairLogps, beta: float, **options: Any) -> Tensor:
        if unknown := options.keys() - known:
            raise TypeError(f"{', '.join(sorted(unknown))}: no option of this sum of losses.")
        terms = [
            weight * loss(pairs, beta, **{k: v for k, v in options.items() if k in loss.options})
            for weight, loss in weighted
        ]
        return reduce(torch.add, terms)

    def joined(attribute: str, between: str, weights: bool = False) -> str:
        texts = [
            (f"{weight:g} x " if weights and weight != 1 else "") + getattr(loss, attribute)
            for weight, loss in weighted
        ]
        return between.join(dict.fromkeys(texts))

    return Loss(
        total,
        title=joined("title", " + ", weights=True),
        formula=joined("formula", " + ", weights=True),
        citation=joined("citation", "; "),
        arxiv="",
        rewards=joined("rewards", "; and: "),
        own_options=known,  # for display: each member keeps its own defaults
        couples_pairs=any(loss.couples_pairs for loss in members),
        reference_free=all(loss.reference_free for loss in members),
        uses_lengths=any(loss.uses_lengths for loss in members),
        uses_scores=any(loss.uses_scores for loss in members),
        ranked=any(loss.ranked for loss in members),
        trl="" if not all(loss.trl for loss in members) else joined("trl", " + "),
        status=joined("status", "; "),
        members=tuple(members),
    )


def loss_and_grads(
    loss: Loss, pairs: PairLogps, beta: float, **options: Any
) -> tuple[Tensor, Tensor]:
    """Loss of each pair, and its gradient with respect to the policy's two log-probabilities.

    `logps.backward(grads)` then propagates it to the model's weights.

    Args:
        loss: An entry of `LOSSES`.
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in the loss.
        **options: As in the loss.

    Returns:
        `(pairs,)`, and `(2, pairs)` for chosen and rejected; both detached.
    """
    with torch.enable_grad():
        policy = torch.stack([pairs.policy_chosen, pairs.policy_rejected]).detach()
        chosen, rejected = policy.requires_grad_()
        losses = loss(pairs.with_policy(chosen, rejected), beta, **options)
        (grads,) = torch.autograd.grad(losses.sum(), policy)
    return losses.detach(), grads


def gradient_weight(loss: Loss, pairs: PairLogps, beta: float, **options: Any) -> Tensor:
    """Gradient weight of each pair: `w` in `dL/dtheta = -beta * w * d(log pi(y_w|x))/dtheta + ...`.

    For the DPO loss this is `sigmoid(-beta * margin)`: one half at the start, near one for a pair
    that the implicit reward ranks wrongly, near zero for a pair that it ranks correctly.

    Args:
        loss: An entry of `LOSSES`.
        pairs: Log-probabilities, each `(pairs,)`.
        beta: As in the loss.
        **options: As in the loss.

    Returns:
        `(pairs,)`, detached.

    Source:
        Rafailov et al. 2023, section 4 ("What does the DPO update do?").
    """
    return -loss_and_grads(loss, pairs, beta, **options)[1][0] / beta
