"""Where the probability of a policy lies: on a pair's own responses, on other pairs', elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PairMass:
    """The probability of a pair's own responses, of those of other pairs, and of all others.

    Means over pairs, each at its own prompt; together one.

    Attributes:
        own: Of the pair's two responses.
        others: Of responses that some other pair shows, to whatever prompt.
        none: Of responses that no pair shows.
    """

    own: float
    others: float
    none: float


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """Pairs among the listed responses.

    Attributes:
        places: `(pairs, 3)`: the prompt of each, its chosen and its rejected response.
        shown: `(responses,)`, true where some pair shows the response.
    """

    places: Tensor
    shown: Tensor

    def mass(self, logps: Tensor) -> PairMass:
        """Where the probability is, given `(prompts, responses)` log-probabilities, nats."""
        shares = logps.exp()
        prompt, chosen, rejected = self.places.T
        own = (shares[prompt, chosen] + shares[prompt, rejected]).mean().item()
        shown = (shares * self.shown).sum(dim=-1)[prompt].mean().item()
        return PairMass(own, shown - own, shares.sum(dim=-1)[prompt].mean().item() - shown)
