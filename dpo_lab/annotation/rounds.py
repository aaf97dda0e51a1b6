"""Rounds of a session: a person answers, the model is trained, its policy asks what comes next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dpo_lab.annotation.questions import Answer
from dpo_lab.annotation.session import Session
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.pairs import prompt_text
from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.training.outcome import MeanCI
from dpo_lab.training.run_folders import list_runs
from dpo_lab.training.runs import Run


@dataclass(frozen=True)
class Round:
    """The answers to questions that one policy asked.

    Attributes:
        number: From 1: the reference's questions.
        model: Name and first digits of the weights' hash.
        answered: Questions answered, ties included.
        pairs: Preference pairs among them.
        agreement: Share of its questions that were asked twice and got the same answer, if any.
        score: Mean reward of the answers shown, if there is a reward of all of them.
    """

    number: int
    model: str
    answered: int
    pairs: int
    agreement: MeanCI | None
    score: MeanCI | None


def rounds_of(session: Session, reward_fn: RewardFn | None = None) -> list[Round]:
    """The rounds of a session, in order; one that nobody has answered yet is not among them.

    Args:
        session: The session.
        reward_fn: Reward of `(prompt, response)`.
    """
    by_model: dict[str, list[Answer]] = {}
    first = {answer.question.number: answer for answer in session.answers}
    for answer in session.answers:
        by_model.setdefault(answer.question.model, []).append(answer)
    found = []
    for number, (model, answers) in enumerate(by_model.items(), start=1):
        new = [answer for answer in answers if answer.question.repeats is None]
        same = [
            float(answer.winner == first[answer.question.repeats].winner)
            for answer in answers
            if answer.question.repeats in first
            and "skip" not in (answer.choice, first[answer.question.repeats].choice)
        ]
        found.append(
            Round(
                number,
                model,
                sum(answer.choice != "skip" for answer in answers),
                sum(answer.row is not None for answer in answers),
                MeanCI.of(same) if same else None,
                _score(new, reward_fn),
            )
        )
    return found


def _score(answers: Sequence[Answer], reward_fn: RewardFn | None) -> MeanCI | None:
    if reward_fn is None or not answers:
        return None
    asked = [answer.question for answer in answers]
    shown = [(question.prompt, side) for question in asked for side in (question.a, question.b)]
    rewards = [float(reward_fn(prompt_text(prompt), text)) for prompt, text in shown]
    return MeanCI.of(rewards) if all(map(math.isfinite, rewards)) else None


def last_policy(runs: Path, model: str) -> tuple[Callable[[], LanguageModel], str] | None:
    """What loads the policy of the last run of a session, and its name; none before its first.

    Args:
        runs: Folder of the session's runs.
        model: Name of the session's model; runs of another one do not count.
    """
    for run in reversed(list_runs(runs)):
        ended = Run(run.path).summary["state"] in ("done", "stopped")
        if ended and run.checkpoint is not None and run.settings.get("model") == model:
            return partial(load_model, run.checkpoint), run.path.name
    return None
