"""Prompts to probe a run's policy with, in the form in which it was trained on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dpo_lab.data.pairs import Text
from dpo_lab.data.templates import CannotEncode
from dpo_lab.data.text_to_ids import Ids
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import load_data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probes:
    """Prompts to ask a policy.

    Attributes:
        what: Where they come from, in words.
        prompts: Their ids, each once.
        texts: The same before they became ids.
    """

    what: str
    prompts: Sequence[Ids]
    texts: Sequence[Text]


def probes_of(
    run: Run, policy: LanguageModel, count: int, own: Sequence[str] | None = None
) -> Probes:
    """The first prompts to probe a run's policy with, in the form in which it was trained on them.

    They are held-out prompts; training prompts if nothing is held out; or, where the data is not
    what it was when the run began, those whose answers the run kept.

    Args:
        run: The run.
        policy: Its policy.
        count: Most prompts.
        own: Prompts to take instead.

    Raises:
        ValueError: If there is none that the policy can be asked.
    """
    what, prompts = ("your own prompts", own) if own is not None else _prompts_of(run)
    limit = run.config.max_length
    texts: list[Text] = []
    ids: list[Ids] = []
    for text in prompts:
        if len(ids) == count:
            break
        try:
            shaped = policy.encoder.as_prompt(text, run.config.prompt_format)
            (encoded,) = policy.encoder.prompts([shaped])
        except CannotEncode:
            continue
        if 0 < len(encoded) < limit and encoded not in ids:
            texts.append(shaped)
            ids.append(encoded)
    if not ids:
        raise ValueError(
            f"{run.path}: of {what}, none can be asked. Give prompts in a file, one a line."
        )
    return Probes(what, ids, texts)


def _prompts_of(run: Run) -> tuple[str, Sequence[Text]]:
    known = run.environment.get("held_out_fingerprint"), run.environment.get("data_fingerprint")
    try:
        train, held_out = load_data(run.config)
    except (OSError, ValueError) as error:
        logger.warning("%s: its data cannot be read now (%s).", run.path, error)
    else:
        if len(held_out) and known[0] in (None, held_out.fingerprint()):
            return "held-out prompts", held_out.prompts
        if not len(held_out) and known[1] in (None, train.fingerprint()):
            return "training prompts", train.prompts
        logger.warning("%s: its data is not what it was when the run began.", run.path)
    shown = list(dict.fromkeys(sample.prompt for sample in run.samples()))
    return "prompts whose answers the run kept", shown
