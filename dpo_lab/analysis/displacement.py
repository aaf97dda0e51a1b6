"""Likelihood displacement: where does the probability of the pairs' answers go?

The DPO loss asks that the chosen answer fall less than the rejected one. Where the pair's answers
lose probability, others gain it, and no pair says whether those are any good.

Source:
    Razin et al. 2024, "Unintentional Unalignment: Likelihood Displacement in Direct Preference
    Optimization" (arXiv 2410.08847).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_lab.analysis.token_credit import token_texts
from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pairs import Pair, response_text
from dpo_lab.models.reference import Reference
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.sampling import Completion
from dpo_lab.models.scoring import LogpScorer

GROUPS = ("mostly chosen", "as often both", "mostly rejected", "in no pair")
"""What the pairs of a prompt say of a response."""


@dataclass(frozen=True)
class Share:
    """The probability of something before and after.

    Attributes:
        text: What: a response, a token, a group of responses.
        before: Its probability by the reference.
        after: Its probability by the policy.
        note: What the pairs say of it, or an empty text.
    """

    text: str
    before: float
    after: float
    note: str = ""

    @property
    def gain(self) -> float:
        """`after - before`; below 0 where it lost."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Displacement:
    """How the probability of all responses moved, from reference to policy.

    Attributes:
        responses: The texts.
        before: `(responses,)`, probabilities by the reference, float64.
        after: `(responses,)`, by the policy.
        kinds: What the pairs say of each response, one of `GROUPS`.
    """

    responses: tuple[str, ...]
    before: Tensor
    after: Tensor
    kinds: tuple[str, ...]

    @property
    def moved(self) -> float:
        """Probability that changed hands: half the sum of all changes' sizes, in [0, 1]."""
        return (self.after - self.before).abs().sum().item() / 2

    @property
    def to_unseen(self) -> float:
        """Share of all that was gained which went to responses in no pair, in [0, 1]."""
        gains = (self.after - self.before).clamp(min=0)
        unseen = torch.tensor([kind == GROUPS[-1] for kind in self.kinds])
        return (gains[unseen].sum() / gains.sum().clamp_min(1e-300)).item()

    def groups(self) -> list[Share]:
        """The probability of each of `GROUPS` before and after; they sum to one."""
        found = []
        for group in GROUPS:
            own = torch.tensor([kind == group for kind in self.kinds])
            found.append(Share(group, self.before[own].sum().item(), self.after[own].sum().item()))
        return found

    def gaining(self, count: int = 8) -> list[Share]:
        """The responses that gained most, the first of all on top."""
        return self._first((self.before - self.after).argsort(stable=True)[:count])

    def losing(self, count: int = 8) -> list[Share]:
        """The responses that lost most."""
        return self._first((self.after - self.before).argsort(stable=True)[:count])

    def _first(self, places: Tensor) -> list[Share]:
        return [
            Share(self.responses[i], self.before[i].item(), self.after[i].item(), self.kinds[i])
            for i in places.tolist()
        ]


def exact_displacement(
    world: ResponseSpace, policy_logps: Tensor, pairs: Sequence[Pair], prompt: str
) -> Displacement:
    """Who gained and who lost, of all responses to one prompt.

    Args:
        world: All responses with their reference probabilities.
        policy_logps: `(prompts, responses)`, nats, of `world.logps(policy)`.
        pairs: The training pairs; those of this prompt say which responses were ever shown.
        prompt: One of the world's prompts.

    Raises:
        ValueError: If the world has no such prompt.
    """
    if prompt not in world.prompts:
        raise ValueError(f"prompt={prompt!r}: is not in this world. Take one of its prompts.")
    row = world.prompts.index(prompt)
    own = [pair for pair in pairs if pair.prompt == prompt]
    votes, seen = Counter(), set()
    for pair in own:
        chosen, rejected = response_text(pair.chosen), response_text(pair.rejected)
        votes[chosen] += 1
        votes[rejected] -= 1
        seen |= {chosen, rejected}
    kinds = tuple(_kind(votes[text], text in seen) for text in world.responses)
    before, after = world.reference_logps[row].exp(), policy_logps[row].exp()
    return Displacement(world.responses, before, after, kinds)


def _kind(votes: int, seen: bool) -> str:
    if not seen:
        return GROUPS[3]
    return GROUPS[0] if votes > 0 else GROUPS[2] if votes < 0 else GROUPS[1]


@dataclass(frozen=True)
class StepDisplacement:
    """The next token at one step along a response, before and after.

    Attributes:
        own: The response's own token.
        gaining: The tokens that gained most probability, the first of all on top.
        losing: The tokens that lost most.
        moved: Probability that changed hands, in [0, 1].
    """

    own: Share
    gaining: tuple[Share, ...]
    losing: tuple[Share, ...]
    moved: float


@torch.no_grad()
def token_displacement(
    policy: LogpScorer, reference: Reference, prompt: Ids, response: Ids, top: int = 5
) -> list[StepDisplacement]:
    """Who gained at each step along a response, in any model.

    Args:
        policy: Scores with the policy.
        reference: Its reference.
        prompt: Ids of the prompt.
        response: Ids of the response, as a tokenised pair holds them.
        top: How many gaining and losing tokens to name.

    Returns:
        One for each token of the response.
    """
    batch = policy.batch([(prompt, response)])
    states = policy.states(batch)
    with reference.active() as scorer:
        reference_states = scorer.states(batch)
    tokenizer = policy.language_model.tokenizer
    texts, steps = token_texts(tokenizer, response), []
    # One step's logits at a time: a large vocabulary fits in memory at any length.
    for place, row in enumerate(batch.token.tolist()):
        rows = slice(row, row + 1)
        after = policy.logits(states[rows])[0].cpu().double().softmax(-1)  # not all have float64
        with reference.active() as scorer:
            before = scorer.logits(reference_states[rows])[0].cpu().double().softmax(-1)
        gains = after - before
        context = response[:place]

        def share(token: int, before=before, after=after, context=context) -> Share:
            text = token_texts(tokenizer, (*context, token))[-1]
            return Share(text, before[token].item(), after[token].item())

        own = Share(texts[place], *(p[response[place]].item() for p in (before, after)))
        first = [part.topk(min(top, len(gains))).indices.tolist() for part in (gains, -gains)]
        gaining, losing = (tuple(map(share, tokens)) for tokens in first)
        steps.append(StepDisplacement(own, gaining, losing, gains.abs().sum().item() / 2))
    return steps


def sampled_displacement(
    before: Sequence[Completion], after: Sequence[Completion], top: int = 10
) -> list[Share]:
    """The answers whose share among samples changed most, where they cannot be listed.

    Args:
        before: Sampled answers of the reference.
        after: Sampled answers of the policy, to the same prompts.
        top: How many answers to name.

    Returns:
        Answers by the size of the change, each share with a standard error of
        `sqrt(p * (1 - p) / n)`.

    Raises:
        ValueError: If either has no answer.
    """
    if not before or not after:
        raise ValueError(
            f"{len(before)} answers before, {len(after)} after: shares need at least one of each. "
            "Sample from reference and policy."
        )
    counts = [Counter(answer.text for answer in answers) for answers in (before, after)]
    texts = sorted(counts[0].keys() | counts[1].keys())
    shares = [Share(t, counts[0][t] / len(before), counts[1][t] / len(after)) for t in texts]
    return sorted(shares, key=lambda share: -abs(share.gain))[:top]
