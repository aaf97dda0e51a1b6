"""Prompts out of a file: a text with one a line, or rows with a column of prompts."""

from __future__ import annotations

from pathlib import Path

from dpo_lab.data.messages import messages_in_text, read_messages
from dpo_lab.data.pairs import Text
from dpo_lab.data.problems import UnusableRow
from dpo_lab.data.readers import read_file

COLUMN = "prompt"


def read_prompts(file: Path) -> list[Text]:
    """The prompts of a file, each once, in order.

    Args:
        file: A `.txt` with one prompt a line; or any file of rows that `load_preferences` reads,
            with a column `prompt` of texts or of lists of messages.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a row has no prompt.
    """
    if file.suffix == ".txt":
        found: list[Text] = [line.strip() for line in file.read_text("utf-8").splitlines()]
        return _once([line for line in found if line])
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Give one with prompts.")
    found = []
    for row in read_file(file):
        value = row.value.get(COLUMN) if isinstance(row.value, dict) else None
        value = messages_in_text(value) if isinstance(value, str) else value
        try:
            prompt = read_messages(COLUMN, value) if isinstance(value, list) else value
        except UnusableRow as why:
            raise ValueError(f"{file}, {why.at(row.number)}. Fix the row.") from None
        if not isinstance(prompt, str | list) or not prompt:
            raise ValueError(
                f"{file}, row {row.number}: has no column {COLUMN!r} with a text or messages. "
                "Name the column so, or take the row out."
            )
        found.append(prompt)
    return _once(found)


def _once(prompts: list[Text]) -> list[Text]:
    return [prompt for at, prompt in enumerate(prompts) if prompt not in prompts[:at]]
