"""Which training pairs each step of a run uses."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.data.batching import PairSampler
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pairs import Pair
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.training.config import TrainConfig


def pair_order(config: TrainConfig, pairs: Sequence[Pair] | Sequence[TokenizedPair]) -> PairSampler:
    """The order in which training pairs are used in the steps of a run.

    Raises:
        ValueError: If a batch holds more pairs than there are.
    """
    count, groups = len(pairs), ()
    if config.group_by_prompt or config.loss_function.ranked:
        numbers: dict[str, int] = {}
        prompts = [str(pair.prompt) for pair in pairs]
        groups = tuple(numbers.setdefault(prompt, len(numbers)) for prompt in prompts)
    return PairSampler(count, config.batch_pairs, config.seed, config.total_pairs(count), groups)


def trained_on(config: TrainConfig, pairs: TokenizedPairs) -> list[int]:
    """Indices of the training pairs that at least one step of the run uses."""
    count = len(pairs)
    if config.total_pairs(count) >= count:
        return list(range(count))
    order = pair_order(config, pairs)
    steps = range(config.total_steps(count))
    return sorted(index for step in steps for index in order.batch(step))
