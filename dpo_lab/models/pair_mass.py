"""Probability mass of a policy on a pair's own responses, on other pairs' responses, elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PairMass:
    """Probability mass at a pair's prompt, mean over pairs; the three parts sum to one.

    Attributes:
        own: On the pair's two answers.
        others: On answers that occur in other pairs, with any prompt.
        none: On answers that occur in no pair.
    """

    own: float
    others: float
    none: float


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """Pairs whose responses are among the listed ones.

    Attributes:
        places: `(pairs, 3)`: indices of the prompt, the chosen and the rejected response.
        shown: `(responses,)`, true if the response occurs in any pair.
    """

    places: Tensor
    shown: Tensor

    def mass(self, logps: Tensor) -> PairMass:
        """The probability mass, given `(prompts, responses)` log-probabilities, nats."""
        probabilities = logps.exp()
        prompt, chosen, rejected = self.places.T
        own = (probabilities[prompt, chosen] + probabilities[prompt, rejected]).mean().item()
        shown = (probabilities * self.shown).sum(dim=-1)[prompt].mean().item()
        return PairMass(own, shown - own, probabilities.sum(dim=-1)[prompt].mean().item() - shown)
