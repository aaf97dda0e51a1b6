"""What the page of a comparison shows: the chat, and the blind question, as plain values."""

from __future__ import annotations

from typing import Any

from dpo_lab.annotation.blind import a_is_left
from dpo_lab.annotation.blind_queue import BlindQueue
from dpo_lab.data.sampled import shown
from dpo_lab.ui.annotator.question import BLANK, prompt_words
from dpo_lab.ui.compare.chat import EMPTY
from dpo_lab.ui.compare.two_models import TwoModels

ALONE = (
    "At least one of the models has no chat template, so it completes each message alone: earlier "
    "turns are not given to it."
)


def chat_state(models: TwoModels, names: tuple[str, str], closed: str) -> dict[str, Any]:
    """State of the chat.

    Args:
        models: Both models at work.
        names: Their names.
        closed: Why it is closed; empty if it is not.
    """
    return EMPTY | {
        "names": list(names),
        "rows": [dict(row) for row in models.rows],
        "busy": models.busy,
        "open": not closed and models.error is None,
        "status": closed or _doing(models, names),
        "problem": str(models.error) if models.error else models.problem,
        "note": "" if models.remembers else ALONE,
    }


def question_state(queue: BlindQueue, models: TwoModels, closed: str) -> dict[str, Any]:
    """State of the blind question, without what was said about a click.

    Args:
        queue: The questions.
        models: Both models at work.
        closed: Why it is closed; empty if it is not.
    """
    question, click = queue.now()
    state = BLANK | {
        "click": click,
        "open": not closed,
        "waiting": closed or _waiting(queue, models),
        "progress": _progress(queue),
        "place": f"choices in {queue.session.log}",
    }
    if question is None or closed:
        return state
    pair = queue.pairs[question.draw]
    cut = (pair.a_cut, pair.b_cut)[:: 1 if a_is_left(question) else -1]
    a, b = (shown(text, one) for text, one in zip((question.a, question.b), cut, strict=True))
    return state | {"asked": True, "prompt": prompt_words(question.prompt), "a": a, "b": b}


def _doing(models: TwoModels, names: tuple[str, str]) -> str:
    if models.error:
        return "The models have stopped."
    if not models.loaded:
        return "The models are being loaded."
    if not models.busy:
        return "Ready."
    if models.drawing:
        return "Your message is next: answers for the blind choice are being drawn."
    return f"{names[1 if models.rows[-1]['b'] else 0]} is answering."


def _waiting(queue: BlindQueue, models: TwoModels) -> str:
    if models.error:
        return f"There are no more questions: {models.error}"
    if not models.loaded:
        return "The models are being loaded."
    if queue.complete:
        return "Every pair of answers was judged in both orders. See the result."
    return "The next answers are being drawn."


def _progress(queue: BlindQueue) -> str:
    count = queue.session.count
    words = f"{count('A', 'B', 'tie')} answered, {count('tie')} of them ties"
    words += f" · {count('skip')} skipped"
    if queue.complete:
        words += f" · {queue.left} left, each pair in both orders"
    if same := sum(pair.same for pair in queue.pairs):
        words += f" · {same} pairs of equal answers are not asked"
    return words
