"""KL and score summed over every answer of a run's model, where all of them can be listed."""

from __future__ import annotations

import json
import threading

from dpo_lab.models.enumeration import enumerable
from dpo_lab.models.reward import RewardEnsemble, RewardModel
from dpo_lab.models.world import World
from dpo_lab.training.setup import Job

MOST_PROMPTS = 10
"""Held-out prompts, the first, whose answers are listed: a hundredth of a second each."""
_KEPT = 8
_worlds: dict[tuple, World | None] = {}
_lock = threading.Lock()


def world_key(job: Job) -> tuple | None:
    """What a job's world depends on; none where its answers cannot all be listed and scored."""
    slow = isinstance(job.score, (RewardModel, RewardEnsemble))  # a forward pass an answer
    if job.score is None or slow or not job.prompts or not enumerable(job.policy):
        return None
    return job.fingerprint, json.dumps(job.prompts[:MOST_PROMPTS]), job.score


def known_world(key: tuple | None) -> World | None:
    """The world of a key, if a run has asked for it."""
    return _worlds.get(key)


def world_of(job: Job) -> World | None:
    """The world of a job's reference and score, listed once for all runs that share it."""
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
                    _worlds[key] = World.of(model, prompts, job.score)
                except ValueError:  # it says more than can be listed
                    _worlds[key] = None
    return _worlds[key]


def listed_values(job: Job) -> dict[str, float]:
    """`listed/kl`, `listed/score`, `listed/beyond` of a job's policy, or nothing.

    Over the listed answers alone, an answer that is longer counts as its first words: what the
    exact frontier is about. `listed/beyond` is the share of such answers, at least.
    """
    world = world_of(job)
    if world is None:
        return {}
    found = world.listed(job.policy)
    return {
        "listed/kl": found.kl,
        "listed/score": found.reward,
        "listed/beyond": found.beyond,
    }
