"""Likelihood displacement: which answers gain the probability that the pairs' answers lose.

The DPO loss only asks that the chosen answer fall less than the rejected one. When both lose
probability, other answers gain it, and no pair says whether those are any good.

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
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.models.reference import Reference
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.sampling import Completion
from dpo_lab.models.scoring import LogpScorer

GROUPS = ("mostly chosen", "as often both", "mostly rejected", "in no pair")
"""What the pairs of a prompt say about a response."""


@dataclass(frozen=True)
class Share:
    """Probability of a response, a token or a group of responses, before and after training.

    Attributes:
        text: The response or token, or the name of the group.
        before: Its probability under the reference.
        after: Its probability under the policy.
        note: What the pairs say about it, or an empty text.
    """

    text: str
    before: float
    after: float
    note: str = ""

    @property
    def gain(self) -> float:
        """`after - before`; negative for a loss."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Displacement:
    """Probabilities of all responses to a prompt, under the reference and under the policy.

    Attributes:
        responses: The texts.
        before: `(responses,)`, probabilities under the reference, float64.
        after: `(responses,)`, the same under the policy.
        kinds: What the pairs say about each response, one of `GROUPS`.
    """

    responses: tuple[str, ...]
    before: Tensor
    after: Tensor
    kinds: tuple[str, ...]

    @property
    def moved(self) -> float:
        """Total variation distance: half the sum of the absolute changes, in [0, 1]."""
        return (self.after - self.before).abs().sum().item() / 2

    @property
    def to_unseen(self) -> float:
        """Share of the gained probability that went to responses in no pair, in [0, 1]."""
        gains = (self.after - self.before).clamp(min=0)
        unseen = torch.tensor([kind == GROUPS[-1] for kind in self.kinds])
        return (gains[unseen].sum() / gains.sum().clamp_min(1e-300)).item()

    def groups(self) -> list[Share]:
        """The probability of each of `GROUPS` before and after; they sum to one."""
        shares = []
        for group in GROUPS:
            mask = torch.tensor([kind == group for kind in self.kinds])
            before, after = (values[mask].sum().item() for values in (self.before, self.after))
            shares.append(Share(group, before, after))
        return shares

    def gaining(self, count: int = 8) -> list[Share]:
        """The responses that gained most, largest gain first."""
        return self._shares((self.before - self.after).argsort(stable=True)[:count])

    def losing(self, count: int = 8) -> list[Share]:
        """The responses that lost most, largest loss first."""
        return self._shares((self.after - self.before).argsort(stable=True)[:count])

    def _shares(self, indices: Tensor) -> list[Share]:
        return [
            Share(self.responses[i], self.before[i].item(), self.after[i].item(), self.kinds[i])
            for i in indices.tolist()
        ]


def exact_displacement(
    world: ResponseSpace, policy_logps: Tensor, pairs: Sequence[Pair], prompt: str
) -> Displacement:
    """Which of all responses to one prompt gained probability, and which lost it.

    Args:
        world: All responses with their reference probabilities.
        policy_logps: `(prompts, responses)`, nats, of `world.logps(policy)`.
        pairs: The training pairs; only those of this prompt decide a response's group.
        prompt: One of the world's prompts.

    Raises:
        ValueError: If the world has no such prompt.
    """
    if prompt not in world.prompts:
        raise ValueError(f"prompt={prompt!r}: is not in this world. Take one of its prompts.")
    row = world.prompts.index(prompt)
    votes, seen = Counter(), set()
    for pair in (pair for pair in pairs if pair.prompt == prompt):
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
    """Next-token probabilities at one step of a response, before and after.

    Attributes:
        own: The response's token at this step.
        gaining: The tokens that gained most probability, largest gain first.
        losing: The tokens that lost most, largest loss first.
        moved: Total variation distance, in [0, 1].
    """

    own: Share
    gaining: tuple[Share, ...]
    losing: tuple[Share, ...]
    moved: float


@torch.no_grad()
def token_displacement(
    policy: LogpScorer, reference: Reference, prompt: Ids, response: Ids, top: int = 5
) -> list[StepDisplacement]:
    """How next-token probability moved at each step of a response, for any model.

    Args:
        policy: Scorer of the policy.
        reference: Its reference.
        prompt: Token ids of the prompt.
        response: Token ids of the response, as in a tokenised pair.
        top: Number of gaining and of losing tokens to list.

    Returns:
        One step per scored token of the response.
    """
    batch = policy.batch([(prompt, response)])
    states = policy.states(batch)
    with reference.active() as scorer:
        reference_states = scorer.states(batch)
    tokenizer = policy.language_model.tokenizer
    ids = plain_ids(response)
    texts, steps = token_texts(tokenizer, ids), []
    places = [place for place, token in enumerate(response) if token >= 0]
    # One step's logits at a time, so that long responses and large vocabularies fit in memory.
    for position, row in zip(places, batch.token.tolist(), strict=True):
        rows = slice(row, row + 1)
        # On the CPU, since not every device has float64.
        after = policy.logits(states[rows])[0].cpu().double().softmax(-1)
        with reference.active() as scorer:
            before = scorer.logits(reference_states[rows])[0].cpu().double().softmax(-1)
        gains = after - before
        context = ids[:position]

        def share(token: int, before=before, after=after, context=context) -> Share:
            text = token_texts(tokenizer, (*context, token))[-1]
            return Share(text, before[token].item(), after[token].item())

        own = Share(texts[position], *(p[response[position]].item() for p in (before, after)))
        most = [part.topk(min(top, len(gains))).indices.tolist() for part in (gains, -gains)]
        gaining, losing = (tuple(map(share, tokens)) for tokens in most)
        steps.append(StepDisplacement(own, gaining, losing, gains.abs().sum().item() / 2))
    return steps


def sampled_displacement(
    before: Sequence[Completion], after: Sequence[Completion], top: int = 10
) -> list[Share]:
    """The sampled answers whose share changed most, for models whose answers cannot be listed.

    Args:
        before: Answers sampled from the reference.
        after: Answers sampled from the policy, to the same prompts.
        top: Number of answers to return.

    Returns:
        Answers, largest change first. A share has a standard error of `sqrt(p * (1 - p) / n)`.

    Raises:
        ValueError: If either sequence is empty.
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
