"""Exact KL and score of a policy over all its answers, for models whose answers can be listed."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import cache

import torch

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.models.enumeration import enumerable
from dpo_lab.models.pair_mass import ListedPairs
from dpo_lab.models.response_space import MAX_WORDS, ResponseSpace
from dpo_lab.models.reward import RewardEnsemble, RewardModel
from dpo_lab.models.sampling import Completion
from dpo_lab.training.job import Job

MOST_PROMPTS = 10
"""Number of held-out prompts whose answers are listed; each takes a hundredth of a second."""
_KEPT = 8
_worlds: dict[tuple, ResponseSpace | None] = {}
_lock = threading.Lock()


def world_key(job: Job) -> tuple | None:
    """Key of a job's response space; None if its answers cannot all be listed and scored."""
    slow = isinstance(job.reward_fn, (RewardModel, RewardEnsemble))  # a forward pass per answer
    if job.reward_fn is None or slow or not job.prompts or not enumerable(job.policy):
        return None
    return job.fingerprint, json.dumps(job.prompts[:MOST_PROMPTS]), job.reward_fn


def known_world(key: tuple | None) -> ResponseSpace | None:
    """The response space of a key, if a run has already listed it."""
    return _worlds.get(key)


def world_of(job: Job) -> ResponseSpace | None:
    """The response space of a job's reference and score, listed once for all runs that share it."""
    key = world_key(job)
    if key is None:
        return None
    with _lock:
        if key not in _worlds:
            if len(_worlds) >= _KEPT:
                del _worlds[next(iter(_worlds))]
            with job.reference.active() as reference:
                model, prompts = reference.language_model, job.prompts[:MOST_PROMPTS]
                try:
                    _worlds[key] = ResponseSpace.of(model, prompts, job.reward_fn)
                except ValueError:  # its answers are too long to list
                    _worlds[key] = None
    return _worlds[key]


def listed_values(job: Job, completions: Sequence[Completion] = ()) -> dict[str, float]:
    """Exact metrics of a job's policy over all listed answers; empty if they cannot be listed.

    A longer answer counts as its first words, as in the exact frontier.

    Args:
        job: The run's job.
        completions: Answers of its policy, to count those that are longer.

    Returns:
        `listed/kl`, `listed/score`; `listed/beyond`, the share of completions with more words than
        are listed; and where the probability mass is, mean over `listed/pairs_n` held-out pairs:
        `listed/own_pair`, `listed/other_pairs`, `listed/no_pair`.
    """
    world = world_of(job)
    if world is None:
        return {}
    policy = world.listed(job.policy)
    values = {"kl": policy.kl, "score": policy.reward}
    if completions:
        longer = sum(len(answer.ids) - answer.ended > MAX_WORDS for answer in completions)
        values["beyond"] = longer / len(completions)
    if job.listed_pairs is None:
        job.listed_pairs = _listed_pairs(job, world)
    if len(job.listed_pairs.places):
        mass = job.listed_pairs.mass(policy.logps)
        values |= {"own_pair": mass.own, "other_pairs": mass.others, "no_pair": mass.none}
        values["pairs_n"] = len(job.listed_pairs.places)
    return {f"listed/{name}": value for name, value in values.items()}


def _listed_pairs(job: Job, world: ResponseSpace) -> ListedPairs:
    """The held-out pairs at the listed prompts, and the answers that occur in any pair."""
    column_of = {text: column for column, text in enumerate(world.responses)}
    rows = {ids: row for row, ids in enumerate(job.policy.encoder.prompts(world.prompts))}

    @cache
    def column(ids: Ids) -> int | None:
        words = job.policy.tokenizer.decode(plain_ids(ids), skip_special_tokens=True).split()
        return column_of.get(" ".join(words[:MAX_WORDS]))

    shown = torch.zeros(len(world.responses), dtype=torch.bool)
    held_out = job.held_out.tokens if job.held_out is not None else ()
    places = []
    for pair in (*held_out, *job.train.tokens):
        sides = column(pair.chosen), column(pair.rejected)
        shown[[side for side in sides if side is not None]] = True
    for pair in held_out:
        sides = column(pair.chosen), column(pair.rejected)
        if pair.prompt in rows and None not in sides and sides[0] != sides[1]:
            places.append((rows[pair.prompt], *sides))
    return ListedPairs(torch.tensor(places, dtype=torch.long).view(-1, 3), shown)
