"""The frozen reference (the policy as training began) and its log-probabilities, computed once."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.data.token_ids import count_scored
from dpo_lab.models.processes import ALONE, Processes
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.scoring import LogpScorer, score_sequences

T = TypeVar("T")
SUM_RULE = "sum over response tokens, end token included"
PROBES = 4
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference in nats per token between a cached value and the live model's, by precision:
in bfloat16, rounding depends on how sequences are grouped."""

Progress = Callable[[int, int], None]


class Reference:
    """The frozen reference of a policy.

    With LoRA it is the policy with its adapter disabled. In full fine-tuning it is a copy of the
    policy, made on first use, which must come before training.

    Args:
        policy: Scorer of the policy as it is when training begins.
        copied: Whether to copy with LoRA too: needed if the adapter already has an effect, which
            then is part of the reference.
    """

    def __init__(self, policy: LogpScorer, copied: bool = False):
        self.policy = policy
        self._switched = policy.language_model.lora and not copied
        self._copy: LogpScorer | None = None
        self._moved = False

    def policy_moves(self) -> None:
        """Training starts: a copy made after this would not be the reference."""
        self._moved = True

    def keep(self) -> None:
        """Copy the policy's weights now, unless disabling the adapter gives the reference.

        Raises:
            RuntimeError: If the policy has already been trained.
        """
        model = self.policy.language_model
        if not self._switched and self._copy is None:
            if self._moved:
                raise RuntimeError(
                    "the reference was not kept, and the policy has been trained since. Prepare "
                    "the job again, with keep_reference=True."
                )
            if model.shards:
                frozen, shards = model.shards.frozen_copy(model.model)
            else:
                frozen, shards = copy.deepcopy(model.model).requires_grad_(False), None
            self._copy = self.policy.like(replace(model, model=frozen, shards=shards))

    @contextmanager
    def active(self) -> Iterator[LogpScorer]:
        """The reference as a scorer, whose `language_model` also samples."""
        if self._switched:
            with self.policy.language_model.model.disable_adapter():
                yield self.policy
        else:
            self.keep()
            yield self._copy

    @contextmanager
    def at_start(self) -> Iterator[LogpScorer]:
        """The reference before training, for which no copy is needed."""
        with self.active() if self._switched else nullcontext(self.policy) as scorer:
            yield scorer

    def gathered(self, work: Callable[[], T]) -> T:
        """What a function returns that calls `states` of policy and reference."""
        if self._switched:
            return self.policy.gathered(work)
        self.keep()
        return self.policy.gathered(lambda: self._copy.gathered(work))


@dataclass(frozen=True)
class CacheStats:
    """Cache statistics: reference log-probabilities computed, read and checked.

    Attributes:
        computed: Values computed by the model.
        cached: Values read from the cache.
        probed: Cached values checked against the live model.
    """

    computed: int
    cached: int
    probed: int


@torch.no_grad()
def reference_logps(
    scorer: LogpScorer,
    fingerprint: str,
    sequences: Sequence[PromptResponse],
    *,
    cache: ReferenceCache | None = None,
    token_budget: int = 4096,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> tuple[Tensor, CacheStats]:
    """`log pi_ref(y|x)` of every sequence, computed once and cached.

    Must be called while the scorer's model is the reference. Sequences are grouped by length over
    the whole list. A group with any value missing is computed as a whole, so that a value does not
    depend on what an interrupted call had stored.

    Args:
        scorer: Scorer of the reference.
        fingerprint: The reference weights' fingerprint.
        sequences: `(prompt, response)` ids.
        cache: Cache on disk; without it all values are computed.
        token_budget: Most padded tokens in a forward pass.
        progress: Called with `(done, total)` distinct sequences.
        processes: Those that divide the groups; the first one reads and writes the cache.

    Returns:
        `(sequences,)` nats, in the scorer's type for sums, on the CPU; and how many were computed,
        read and checked.

    Raises:
        ValueError: If cached values differ from the live model's, or a value is not finite.
    """
    rule = f"{fingerprint} {scorer.precision} {SUM_RULE}".encode()
    keys = [_key(rule, sequence) for sequence in sequences]
    before = processes.from_first(lambda: cache.read(list(dict.fromkeys(keys))) if cache else {})
    values = dict(before)
    probed = _probe(scorer, sequences, keys, before, token_budget)
    first_index: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first_index.setdefault(key, index)
    firsts = list(first_index.values())
    groups = scorer.groups([(sequences[index],) for index in firsts], token_budget)
    groups = [[firsts[position] for position in group] for group in groups]
    missing = [group for group in groups if any(keys[index] not in before for index in group)]
    done = len(firsts) - sum(map(len, missing))
    for start in range(0, len(missing), processes.count):
        together = missing[start : start + processes.count]
        fresh = {}
        for mine in scorer.language_model.in_step(processes.mine(together)):
            batch = scorer.batch([sequences[index] for index in mine])
            scores = scorer.logps(batch).cpu()[: len(mine)]
            _check_finite(scores)
            fresh |= dict(zip((keys[index] for index in mine), scores.tolist(), strict=True))
        for theirs in processes.gather(fresh):
            values |= {key: value for key, value in theirs.items() if key not in before}
            if cache and processes.first:
                cache.write(theirs)
        done += sum(map(len, together))
        if progress:
            progress(done, len(firsts))
    if progress and not missing:
        progress(done, len(firsts))
    computed = len(values) - len(before)
    result = torch.tensor([values[key] for key in keys], dtype=scorer.sum_dtype)
    return result, CacheStats(computed, len(before), probed)


def _check_finite(scores: Tensor) -> None:
    bad = scores[~scores.isfinite()]
    if len(bad):
        raise ValueError(
            f"reference log-probability {bad[0].item()}: no loss can be computed from it. "
            "The model's weights are broken, or overflow; load it again, or try precision float32."
        )


def _probe(scorer, sequences, keys, cached, token_budget) -> int:
    """Score a few cached sequences again, and raise if the cache disagrees."""
    known = [index for index, key in enumerate(keys) if key in cached]
    picked = known[:: max(1, len(known) // PROBES)][:PROBES]
    if not picked:
        return 0
    live = score_sequences(scorer, [sequences[index] for index in picked], token_budget)
    for index, value in zip(picked, live.tolist(), strict=True):
        allowed = PROBE_TOLERANCE[scorer.precision] * count_scored(sequences[index][1])
        if not abs(value - cached[keys[index]]) <= allowed:
            raise ValueError(
                f"reference cache: holds {cached[keys[index]]:.4f} nats where the model gives "
                f"{value:.4f}. It is damaged; remove it, and its values will be computed again."
            )
    return len(picked)


def _key(rule: bytes, sequence: PromptResponse) -> bytes:
    prompt, response = sequence
    digest = hashlib.blake2b(rule, digest_size=16)
    digest.update(repr((tuple(prompt), tuple(response))).encode())
    return digest.digest()
