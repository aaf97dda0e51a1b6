"""Pre-flight: what a run's data holds, what is wrong with it, and what the run will cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from dpo_lab.data.preflight.check import Data, check_pairs
from dpo_lab.data.preflight.result import DataCheck
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.template_files import template_text
from dpo_lab.data.template_settings import use_template
from dpo_lab.models.builtin import builtin_model
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.loading import known_ids, load_tokenizer
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.estimate import best_product, estimate

SAMPLED = 2000
"""Pairs at the beginning of the data by which a run's cost is estimated."""


@dataclass(frozen=True)
class RunCost:
    """What a run would take, by the first pairs of its data.

    Attributes:
        steps: Optimiser steps.
        memory_gb: Peak memory, GB.
        step_seconds: Time of a step.
        device: What it is estimated for.
    """

    steps: int
    memory_gb: float
    step_seconds: float
    device: str

    @property
    def seconds(self) -> float:
        """Time of all steps; evaluations and samples come on top."""
        return self.steps * self.step_seconds


@dataclass(frozen=True, repr=False)
class PreFlight:
    """A data set before training: what was found in it, and the cost of a run on it.

    Attributes:
        config: Settings of the run.
        data: What was found.
        cost: What a run takes; None where it is not estimated.
        why_no_cost: Why not, if so.
    """

    config: TrainConfig
    data: DataCheck
    cost: RunCost | None = None
    why_no_cost: str = ""

    def __repr__(self) -> str:
        return "\n".join(map(str, (self.data, *self.data.findings)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        cost = self.cost and asdict(self.cost) | {"seconds": self.cost.seconds}
        return self.data.as_dict() | {"model": self.config.model, "cost": cost}


def check_data(
    data: Data = "reviews",
    model: AnyModel = "micro",
    *,
    rows: int | None = None,
    cost: bool = True,
    processes: int = 1,
    rows_out: Path | None = None,
    clean_out: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> PreFlight:
    """Look at preference pairs before any training: no weights are loaded, memory stays constant.

    Args:
        data: A name, file, folder or hub id as of `TrainConfig.data`; rows in memory, or a
            `datasets.Dataset`.
        model: Whose tokenizer and chat template are used: a name, or a loaded model.
        rows: Look at only the first so many rows of each split.
        cost: Whether the cost of a run is estimated as well, for model and data given by name.
        processes: How many processes share the work on a large data set. With more than one, a
            script must guard its own work by `if __name__ == "__main__":`.
        rows_out: A file for every row of every finding but notes and rules: a line of JSON each.
        clean_out: A folder for the rows that nothing is wrong with, as `train.jsonl` and
            `test.jsonl`; see `write_clean`.
        progress: Called with the current work, how much is done, and the total (0 if unknown).
        **settings: Of the run, as in `TrainConfig`: `max_length`, `columns`, `held_out`, ...

    Returns:
        What was found, and what a run would cost.

    Raises:
        FileNotFoundError: If model or data are not found.
        ValueError: If a setting is wrong, or no row makes a pair.
    """
    named = {"model": str(model)} if isinstance(model, str | Path) else {}
    named |= {"data": str(data)} if isinstance(data, str | os.PathLike) else {}
    config = TrainConfig(**named, **settings).resolved()
    tokenizer, vocabulary = _tokenizer(config, model)
    found = check_pairs(
        data,
        tokenizer,
        _settings(config, rows),
        vocabulary=vocabulary,
        processes=processes,
        rows_out=rows_out,
        clean_out=clean_out,
        progress=progress,
    )
    if not cost:
        return PreFlight(config, found)
    if len(named) < 2:
        return PreFlight(config, found, None, "model or data were handed over, not named")
    if progress:
        progress("cost", 0, 0)
    try:
        return PreFlight(config, found, _cost(config, found))
    except (ValueError, OSError) as error:
        return PreFlight(config, found, None, str(error))


def _settings(config: TrainConfig, rows: int | None) -> CheckSettings:
    if rows is not None and rows < 1:
        raise ValueError(f"rows={rows}: must be at least 1. Leave it out to look at every row.")
    return CheckSettings(
        split=config.split,
        held_out=config.held_out,
        seed=config.seed,
        columns=config.columns,
        limit=rows,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        prompt_format=config.prompt_format,
        score_turns=config.score_turns,
        max_gz_gb=config.max_gz_gb,
    )


def _tokenizer(config: TrainConfig, model: AnyModel) -> tuple[PreTrainedTokenizerBase, int | None]:
    """The tokenizer with the run's template, and how many ids the model knows, if it says."""
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if isinstance(model, str | Path):
        tokenizer = load_tokenizer(model, **options)
        path, _ = builtin_model(str(model))
        try:
            known = AutoConfig.from_pretrained(path, **options).get_text_config().vocab_size
        except (OSError, ValueError, AttributeError):  # an adapter has none
            known = None
    else:
        loaded = as_language_model(model)
        tokenizer, known = loaded.tokenizer, known_ids(loaded.base)
    template = config.chat_template and template_text(config.chat_template)
    use_template(tokenizer, template, config.template_date, config.thinking)
    return tokenizer, known


def _cost(config: TrainConfig, found: DataCheck) -> RunCost:
    sample = replace(config, limit=SAMPLED, held_out=0.0, on_bad_rows="skip")
    step = estimate(sample)
    device = resolve_device(config.device)
    seconds = step.seconds(best_product(device))
    share = found.usable / max(1, found.trained + found.held_out)
    trained = max(1, round(found.trained * share))
    trained = min(trained, config.limit or trained)
    return RunCost(config.total_steps(trained), step.total_gb, seconds, device.type)
