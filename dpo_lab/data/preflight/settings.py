"""What a check of data is told: as much of a run's settings as data and token ids depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dpo_lab.data.pairs import PromptFormat, ScoreTurns
from dpo_lab.data.readers import MAX_GZ_GB


@dataclass(frozen=True)
class CheckSettings:
    """Settings of a check, each as in a run.

    Attributes:
        split: Split to train on.
        held_out: Share of the prompts that a run would hold out of a source without a test split.
        seed: Which prompts, if so.
        columns: Names of prompt, chosen and rejected in the source, where they differ.
        limit: Look at only the first so many rows of each split.
        max_length: Most tokens of prompt and response together.
        max_prompt_length: Most tokens of a prompt.
        prompt_format: Whether text is put through the chat template.
        score_turns: Which of the assistant's messages after the prompt are scored.
        max_gz_gb: Most GB that a `.gz` file may unpack to.
    """

    split: str = "train"
    held_out: float = 0.1
    seed: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    max_length: int = 512
    max_prompt_length: int | None = None
    prompt_format: PromptFormat = "auto"
    score_turns: ScoreTurns = "all"
    max_gz_gb: float = MAX_GZ_GB
