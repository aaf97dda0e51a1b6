"""A world small enough to be listed: every response of a reference, and what each is worth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pairs import Text, prompt_text
from dpo_lab.models.dropout import evaluating
from dpo_lab.models.enumeration import Enumeration, enumerate_responses, next_token_logps
from dpo_lab.models.loading import LanguageModel
from dpo_lab.objective.bradley_terry import sample_preferences
from dpo_lab.objective.optimum import (
    Frontier,
    PolicyPoint,
    exact_kl,
    expected_reward,
    rlhf_objective,
)

logger = logging.getLogger(__name__)

MAX_WORDS = 3
_PROBED = 100
_UNENDED = 1e-3
"""Most probability of going on after any likely response of the most words: of a reference."""
LEFT_OUT = 0.01
"""Share of a policy's responses that go on after the most words, above which it is warned of."""


@dataclass(frozen=True)
class RewardFit:
    """How a policy's implicit reward goes with the true one, over the reference's responses.

    Attributes:
        slope: Implicit reward per unit of true reward; 1 where DPO has reached its optimum, less
            where it stopped early or was held back.
        correlation: Pearson's, between the two.
    """

    slope: float
    correlation: float

    @classmethod
    def of(cls, implicit: Tensor, rewards: Tensor, share: Tensor) -> RewardFit:
        """Both rewards less their mean at each prompt: neither is known but for one of the prompt.

        Args:
            implicit: `(prompts, responses)`, `beta * log(pi / pi_ref)`.
            rewards: The same of the true reward.
            share: The same of the probability with which each response counts.
        """
        found, true = (v - (share * v).sum(-1, keepdim=True) for v in (implicit, rewards))
        together = (share * found * true).sum()
        own = [(share * value.square()).sum() for value in (found, true)]
        slope, correlation = together / own[1], together / (own[0] * own[1]).sqrt()
        return cls(slope.item(), correlation.item())


@dataclass(frozen=True, eq=False)
class Listed:
    """A policy over the listed responses; a longer one counts as its first words.

    Attributes:
        kl: KL to the reference, nats, exact: of whole responses it is at least this.
        reward: Mean reward, exact.
        logps: `(prompts, responses)`, nats.
    """

    kl: float
    reward: float
    logps: Tensor


@dataclass(frozen=True, eq=False)
class ResponseSpace:
    """Prompts, all responses of a reference to each, and their ground-truth rewards.

    Attributes:
        prompts: Prompts that weigh the same.
        responses: The texts of all responses, the same for every prompt.
        reference_logps: `(prompts, responses)`, nats, float64.
        rewards: `(prompts, responses)`, float64.
    """

    prompts: tuple[Text, ...]
    responses: tuple[str, ...]
    reference_logps: Tensor
    rewards: Tensor
    _max_words: int = MAX_WORDS

    @classmethod
    def of(
        cls,
        reference: LanguageModel,
        prompts: Sequence[Text],
        reward_fn: RewardFn,
        max_words: int = MAX_WORDS,
    ) -> ResponseSpace:
        """The world of a reference.

        Args:
            reference: A model of a small vocabulary that ends after `max_words` words.
            prompts: Prompts.
            reward_fn: Ground-truth reward of `(prompt, response)`.
            max_words: Most words of a response.

        Raises:
            ValueError: If its responses cannot all be listed, or it says more.
        """
        found = _listed(reference, prompts, max_words)
        for ids, responses in zip(reference.encoder.prompts(prompts), found, strict=True):
            if _goes_on(reference, ids, responses)[0].max() > _UNENDED:
                raise ValueError(
                    f"{reference.name}: goes on after {max_words} words, so that its responses "
                    "cannot all be listed. Use a model like 'micro', or sample."
                )
        texts = found[0].texts(reference)
        rewards = [[reward_fn(prompt_text(prompt), text) for text in texts] for prompt in prompts]
        return cls(
            tuple(prompts),
            tuple(texts),
            _logps(found),
            torch.tensor(rewards, dtype=torch.float64),
            max_words,
        )

    @property
    def frontier(self) -> Frontier:
        """The exact reward-KL frontier."""
        return Frontier(self.reference_logps, self.rewards)

    def at(self, prompts: Sequence[int]) -> ResponseSpace:
        """The same at some of the prompts, by number."""
        rows = list(prompts)
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            reference_logps=self.reference_logps[rows],
            rewards=self.rewards[rows],
        )

    def logps(self, policy: LanguageModel) -> Tensor:
        """`log pi(y|x)` of all responses, `(prompts, responses)`, nats, float64.

        As if every response ended after the most words: a longer one counts as its first words.
        Logs a warning if that is more than one response in a hundred.
        """
        found = _listed(policy, self.prompts, self._max_words)
        beyond = self._beyond(policy, found)
        if beyond > LEFT_OUT:
            logger.warning(
                "%s: goes on after %d words in at least %.1f %% of its answers; what it says then "
                "is left out.",
                policy.name, self._max_words, 100 * beyond,
            )  # fmt: skip
        return _logps(found)

    def objective(self, policy: LanguageModel, beta: float) -> Tensor:
        """`J(pi)` over the listed responses, exact: a scalar whose gradient is that of J.

        Args:
            policy: A model of the same vocabulary.
            beta: Weight of the KL, > 0.

        Source:
            Rafailov et al. 2023, Eq. 3.
        """
        with evaluating(policy.model):
            found = _listed(policy, self.prompts, self._max_words, gradient=True)
        return rlhf_objective(_logps(found), self.reference_logps, self.rewards, beta).mean()

    def listed(self, policy: LanguageModel) -> Listed:
        """KL and reward of a policy over the listed responses."""
        found = _listed(policy, self.prompts, self._max_words, keep_cache=True)
        logps = _logps(found)
        kl = exact_kl(logps, self.reference_logps).mean().item()
        reward = expected_reward(logps, self.rewards).mean().item()
        return Listed(max(kl, 0.0), reward, logps)

    def _beyond(self, policy: LanguageModel, found: list[Enumeration]) -> float:
        """The least share of responses that go on after the most words, mean over the prompts."""
        total = 0.0
        for ids, responses in zip(policy.encoder.prompts(self.prompts), found, strict=True):
            goes_on, share = _goes_on(policy, ids, responses)
            total += (goes_on @ share).item()
        return total / len(found)

    def point(self, policy: LanguageModel) -> PolicyPoint:
        """Exact KL to the reference and exact reward of a policy, means over the prompts.

        Both over the listed responses, as `logps` says.
        """
        return self.frontier.point(self.logps(policy))

    def recovered(self, policy: LanguageModel, beta: float) -> RewardFit:
        """The policy's implicit reward, `beta * log(pi / pi_ref)`, against the true reward.

        Args:
            policy: A model of the same vocabulary.
            beta: That it was trained with.

        Source:
            Rafailov et al. 2023, Eq. 5.
        """
        implicit = beta * (self.logps(policy) - self.reference_logps)
        return RewardFit.of(implicit, self.rewards, self.reference_logps.exp())

    @property
    def said_and_rare(self) -> Tensor:
        """Weights that draw from the reference, and as often from its fourth root.

        Pairs drawn with them show rare responses too, which a policy may come to say.
        """
        return self.reference_logps.exp() + (self.reference_logps / 4).softmax(dim=-1)

    @property
    def word_counts(self) -> Tensor:
        """Words of each response, `(responses,)`, float64."""
        return torch.tensor([len(text.split()) for text in self.responses], dtype=torch.float64)

    def words(self, policy: LanguageModel | None = None) -> float:
        """Mean words of a response, exact; the reference's by default."""
        logps = self.reference_logps if policy is None else self.logps(policy)
        return (logps.exp() @ self.word_counts).mean().item()

    def pairs(
        self,
        first: Tensor,
        second: Tensor,
        count: int,
        *,
        flipped: float = 0.0,
        seed: int = 0,
    ) -> list[dict[str, str]]:
        """Preference pairs with labels drawn from Bradley-Terry, as rows.

        Args:
            first: `(prompts, responses)`, how often a response comes first in a pair; weights that
                need not sum to one.
            second: The same of the other response. Pairs of equal responses are not kept, nor is
                the empty response, which is no answer.
            count: How many pairs. As many are drawn for each prompt, and those above `count` are
                left out at random: no prompt has more than `ceil(count / prompts)`.
            flipped: Share of the labels that are turned around afterwards, in [0, 1].
            seed: Of responses, labels and order.

        Returns:
            Rows with `prompt`, `chosen`, `rejected`, in random order.

        Raises:
            ValueError: If the weights allow no pair of different responses.
        """
        generator = torch.Generator().manual_seed(seed)
        said = torch.tensor([bool(text) for text in self.responses])
        each = -(-count // len(self.prompts))
        rows = []
        for index, prompt in enumerate(self.prompts):
            a, b = _different(first[index] * said, second[index] * said, each, generator)
            rewards = self.rewards[index]
            wins = sample_preferences(rewards[a], rewards[b], generator)
            wins ^= torch.rand(each, generator=generator) < flipped
            chosen, rejected = torch.where(wins, a, b), torch.where(wins, b, a)
            for winner, loser in zip(chosen.tolist(), rejected.tolist(), strict=True):
                texts = self.responses[winner], self.responses[loser]
                rows.append({"prompt": prompt, "chosen": texts[0], "rejected": texts[1]})
        order = torch.randperm(len(rows), generator=generator)[:count]
        return [rows[index] for index in order.tolist()]


def _listed(
    model: LanguageModel, prompts: Sequence[Text], max_words: int, **options: bool
) -> list[Enumeration]:
    return [
        enumerate_responses(model, ids, max_words=max_words, then_ends=True, **options)
        for ids in model.encoder.prompts(prompts)
    ]


def _logps(found: list[Enumeration]) -> Tensor:
    return torch.stack([responses.logps for responses in found])


def _different(first: Tensor, second: Tensor, count: int, generator) -> tuple[Tensor, Tensor]:
    """Indices of `count` pairs of different responses."""
    kept = [torch.empty(2, 0, dtype=torch.long)]
    said = [weights.nonzero().flatten().tolist()[:2] for weights in (first, second)]
    if len({*said[0], *said[1]}) < 2 or not all(said):
        raise ValueError("first, second: leave no pair of different responses. Widen the weights.")
    while sum(part.shape[1] for part in kept) < count:
        drawn = torch.stack(
            [
                torch.multinomial(weights, count, True, generator=generator)
                for weights in (first, second)
            ]
        )
        kept.append(drawn[:, drawn[0] != drawn[1]])
    a, b = torch.cat(kept, dim=1)[:, :count]
    return a, b


def _goes_on(model: LanguageModel, prompt: Ids, responses: Enumeration) -> tuple[Tensor, Tensor]:
    """Of the likeliest responses of the most words: how likely they go on; their own shares."""
    (end,) = model.encoder.end_ids
    most_words = responses.words[:, -1] >= 0
    count = min(_PROBED, int(most_words.sum()))
    likely = responses.logps.masked_fill(~most_words, -torch.inf).topk(count)
    logps = next_token_logps(model, prompt, responses.words[likely.indices])
    return 1 - logps[:, end].exp(), likely.values.exp()
