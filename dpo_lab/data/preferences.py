"""Preference pairs: read from anywhere, checked row by row, brought to one shape.

Rows may be explicit (`prompt`, `chosen`, `rejected`), implicit (`chosen` and `rejected` begin with
the same prompt) or conversational (lists of `{"role", "content"}`). Whatever is wrong is reported
with its row number, column and reason, all rows at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dpo_lab.data.sources import RowProblem, find_split, read_rows

Message = dict[str, str]
Text = str | list[Message]
Score = Callable[[str, str], float]
OnBadRows = Literal["raise", "skip"]

COLUMNS = ("prompt", "chosen", "rejected")
ROLES = ("system", "user", "assistant", "tool")
TURN = "\n\nAssistant:"
"""Start of an answer in Anthropic's HH data: a shared prefix is cut after the last of these."""


@dataclass(frozen=True)
class Pair:
    """One preference: to `prompt`, people preferred `chosen` over `rejected`.

    Attributes:
        prompt: Text, or the messages before the answer.
        chosen: Text, or one assistant message in a list.
        rejected: The same.
        row: Row number in the source, from 1 (in text files, the line).
    """

    prompt: Text
    chosen: Text
    rejected: Text
    row: int

    @property
    def prompt_key(self) -> str:
        """The prompt as one string: equal for equal prompts."""
        return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt)


class BadRows(ValueError):
    """Rows of a data set that cannot be used, each with its number, column and reason."""

    def __init__(self, source: str, rows: int, bad: int, problems: Sequence[RowProblem]):
        self.problems = tuple(problems)
        listed = "; ".join(str(problem) for problem in problems)
        more = f"; and {bad - len(problems)} more" if bad > len(problems) else ""
        super().__init__(
            f"{source}: {bad} of {rows} rows cannot be used: {listed}{more}. "
            "Mend them, or skip bad rows (on_bad_rows='skip')."
        )


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows of a source: `kept + skipped == rows`.

    Attributes:
        source: Name of the source and split.
        rows: Rows read.
        kept: Pairs made of them.
        skipped: How many were left out, by reason.
        problems: The first of them, with row numbers.
    """

    source: str
    rows: int
    kept: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()

    def __str__(self) -> str:
        text = f"{self.source}: {self.kept} pairs from {self.rows} rows"
        if self.skipped:
            text += ", skipped: " + ", ".join(f"{n} {why}" for why, n in self.skipped.items())
        return text


@dataclass(frozen=True)
class Preferences(Sequence[Pair]):
    """A data set of preference pairs, with where it came from.

    Attributes:
        pairs: The pairs, in the source's order.
        report: What was read and skipped.
        score: Ground-truth score of `(prompt, response)`, where the data set has one.
    """

    pairs: tuple[Pair, ...]
    report: LoadReport
    score: Score | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        """The pair at an index."""
        return self.pairs[index]

    @property
    def prompts(self) -> list[Text]:
        """Every prompt once, in order of first appearance."""
        return list({pair.prompt_key: pair.prompt for pair in self.pairs}.values())

    def fingerprint(self) -> str:
        """Hash of the pairs' text, the same wherever they were read from."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in self.pairs:
            digest.update(json.dumps([pair.prompt, pair.chosen, pair.rejected]).encode())
        return digest.hexdigest()


def load_preferences(
    source: str | os.PathLike,
    split: str = "train",
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows = "raise",
    max_problems: int = 10,
    limit: int | None = None,
) -> Preferences:
    """Read preference pairs.

    Args:
        source: `reviews`, `places`, a file (`.jsonl`, `.json`, `.csv`, each also `.gz`, or
            `.parquet`), a folder of such files or of `datasets.save_to_disk`, or a hub id.
        split: Which split; of a folder, the file whose name begins so. A single file is its own
            only split and any name is accepted.
        columns: Names in the source of `prompt`, `chosen`, `rejected`, where they differ.
        on_bad_rows: `raise` stops with every bad row listed; `skip` leaves them out and counts them.
        max_problems: How many bad rows are named; all are counted.
        limit: Keep the first so many pairs.

    Returns:
        The pairs, with a report of what was read and skipped.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if any row cannot be used.
        FileNotFoundError: If there is no such source or split.
        ValueError: If nothing is left, or an argument is out of range.
    """
    from dpo_lab.data.builtin import BUILTIN, builtin_path

    columns = _check_columns(columns)
    if on_bad_rows not in ("raise", "skip"):
        raise ValueError(
            f"on_bad_rows={on_bad_rows!r}: must be 'raise' or 'skip'. "
            "'skip' leaves bad rows out and counts them."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1. Leave it out to read every row.")
    name = str(source)
    score = BUILTIN[name].score if name in BUILTIN else None
    rows = read_rows(builtin_path(name) if name in BUILTIN else name, split)
    return _collect(f"{name} ({split})", rows, columns, on_bad_rows, max_problems, limit, score)


def preferences_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_rows: OnBadRows = "raise",
    max_problems: int = 10,
    score: Score | None = None,
    name: str = "rows",
) -> Preferences:
    """The same from rows in memory: dictionaries, or a `datasets.Dataset`.

    Args:
        rows: One mapping a row.
        columns: As in `load_preferences`.
        on_bad_rows: As in `load_preferences`.
        max_problems: As in `load_preferences`.
        score: Ground-truth score of `(prompt, response)`, if there is one.
        name: What to call the source in messages.

    Raises:
        BadRows: As `load_preferences`.
        ValueError: As `load_preferences`.
    """
    numbered = enumerate(rows, start=1)
    return _collect(name, numbered, _check_columns(columns), on_bad_rows, max_problems, None, score)


def load_train_and_held_out(
    source: str | os.PathLike,
    *,
    split: str = "train",
    held_out: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> tuple[Preferences, Preferences]:
    """Training pairs and held-out pairs, which share no prompt.

    A source with a split named `test`, `validation`, `held_out` or `eval` uses that one; any other
    gives up a share of its prompts.

    Args:
        source: As in `load_preferences`.
        split: The training split.
        held_out: Share of the prompts to hold out where the source has no such split, in [0, 1).
        seed: Which prompts, if so.
        **options: Passed to `load_preferences`.

    Returns:
        Training pairs, held-out pairs; the latter may be empty if `held_out` is 0.
    """
    from dpo_lab.data.builtin import BUILTIN, builtin_path

    train = load_preferences(source, split, **options)
    name = str(source)
    other = find_split(builtin_path(name) if name in BUILTIN else name, exclude=split)
    if other is None or held_out == 0:
        return split_by_prompt(train, held_out, seed)
    seen = {pair.prompt_key for pair in train}
    rest = load_preferences(source, other, **{**options, "limit": None})
    unseen = tuple(pair for pair in rest if pair.prompt_key not in seen)
    return train, replace(rest, pairs=unseen)


def split_by_prompt(
    preferences: Preferences, held_out: float, seed: int = 0
) -> tuple[Preferences, Preferences]:
    """Hold out a share of the prompts, with every pair that belongs to them.

    Args:
        preferences: All pairs.
        held_out: Share of the prompts, in [0, 1); above 0 at least one prompt on either side.
        seed: Which prompts.

    Returns:
        Training pairs, held-out pairs.

    Raises:
        ValueError: If the share is out of range, or there is but one prompt to split.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out}: must be in [0, 1). 0 holds nothing out.")
    keys = sorted({pair.prompt_key for pair in preferences}, key=lambda key: _rank(key, seed))
    if held_out and len(keys) < 2:
        raise ValueError(
            f"held_out={held_out}: all {len(preferences)} pairs share one prompt, and a split is by "
            "prompt. Use more prompts, or held_out=0."
        )
    count = min(max(1, round(held_out * len(keys))), len(keys) - 1) if held_out else 0
    chosen = set(keys[:count])
    inside = tuple(pair for pair in preferences if pair.prompt_key in chosen)
    outside = tuple(pair for pair in preferences if pair.prompt_key not in chosen)
    return replace(preferences, pairs=outside), replace(preferences, pairs=inside)


def prompt_text(prompt: Text) -> str:
    """A prompt as a person would read it: the text, or the last message's."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def response_text(response: Text) -> str:
    """A response as a person would read it."""
    return response if isinstance(response, str) else response[-1]["content"]


def _rank(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(columns or {}) - set(COLUMNS))
    if unknown:
        raise ValueError(
            f"columns: {unknown[0]!r} is no column of a preference pair. "
            f"Map from {', '.join(COLUMNS)} to the names in your data."
        )
    return {name: (columns or {}).get(name, name) for name in COLUMNS}


def _collect(source, rows, columns, on_bad_rows, max_problems, limit, score) -> Preferences:
    pairs: list[Pair] = []
    problems: list[RowProblem] = []
    reasons: Counter[str] = Counter()
    count = 0
    for number, row in rows:
        count += 1
        try:
            pairs.append(row_to_pair(number, row, columns))
        except RowProblem as problem:
            reasons[problem.reason] += 1
            problems.append(problem)
        if limit is not None and len(pairs) == limit:
            break
    if problems and on_bad_rows == "raise":
        raise BadRows(source, count, len(problems), problems[:max_problems])
    if not pairs:
        found = f"none of its {count} rows can be used ({problems[0]})" if count else "it is empty"
        raise ValueError(f"{source}: {found}. A data set needs at least one pair.")
    report = LoadReport(source, count, len(pairs), dict(reasons), tuple(problems[:max_problems]))
    return Preferences(tuple(pairs), report, score)


def row_to_pair(number: int, row: Any, columns: Mapping[str, str]) -> Pair:
    """One row in the lab's shape.

    Args:
        number: Its row number.
        row: The row, or the problem met in reading it.
        columns: Names of the three columns in the row.

    Raises:
        RowProblem: If it cannot be used.
    """
    if isinstance(row, RowProblem):
        raise row
    if not isinstance(row, Mapping):
        raise RowProblem(number, None, f"is a {type(row).__name__}, not an object with columns")
    chosen = _field(number, row, columns["chosen"])
    rejected = _field(number, row, columns["rejected"])
    if type(chosen) is not type(rejected):
        raise RowProblem(
            number,
            columns["rejected"],
            f"wrong type: {_kind(rejected)}, but chosen is {_kind(chosen)}",
        )
    prompt = row.get(columns["prompt"])
    if prompt is not None:
        prompt = _field(number, row, columns["prompt"])
    if chosen == rejected:
        raise RowProblem(number, columns["rejected"], "equal to chosen")
    shape = _text_pair if isinstance(chosen, str) else _conversation_pair
    prompt, chosen, rejected = shape(number, prompt, chosen, rejected, columns)
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        if not response_text(response).strip():
            raise RowProblem(number, columns[side], "empty response")
    return Pair(prompt, chosen, rejected, number)


def _text_pair(number, prompt, chosen, rejected, columns):
    if prompt is None:
        shared = os.path.commonprefix([chosen, rejected])
        at = shared.rfind(TURN)
        end = at + len(TURN) if at >= 0 else _word_boundary(shared)
        prompt, chosen, rejected = chosen[:end], chosen[end:], rejected[end:]
        if not prompt.strip():
            raise RowProblem(
                number, columns["prompt"], "missing, and chosen and rejected share no prompt"
            )
    if not isinstance(prompt, str):
        raise RowProblem(
            number, columns["prompt"], "wrong type: messages, but chosen and rejected are text"
        )
    return prompt, chosen, rejected


def _word_boundary(shared: str) -> int:
    """End of the last whole word of a shared prefix, so that no response begins inside a word."""
    while shared and not shared[-1].isspace():
        shared = shared[:-1]
    return len(shared.rstrip())


def _conversation_pair(number, prompt, chosen, rejected, columns):
    if not isinstance(prompt, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        if shared:
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        elif prompt is not None:
            prompt = [{"role": "user", "content": prompt}]
        else:
            raise RowProblem(
                number, columns["prompt"], "missing, and chosen and rejected share no prompt"
            )
    _check_roles(number, columns["prompt"], prompt)
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        roles = [message["role"] for message in response]
        if roles != ["assistant"]:
            raise RowProblem(
                number,
                columns[side],
                f"roles out of order: {' '.join(roles) or 'no message'} after the prompt, "
                "not one assistant message",
            )
    return prompt, chosen, rejected


def _check_roles(number: int, column: str, prompt: list[Message]) -> None:
    roles = [message["role"] for message in prompt]
    turns = roles[1:] if roles[0] == "system" else roles
    repeated = any(
        a == b and a in ("user", "system") for a, b in zip(turns, turns[1:], strict=False)
    )
    if not turns or turns[0] != "user" or turns[-1] not in ("user", "tool") or repeated:
        raise RowProblem(
            number, column, f"roles out of order: {' '.join(roles)}; a prompt ends with the user"
        )


def _messages(number: int, column: str, value: Sequence) -> list[Message]:
    if not value:
        raise RowProblem(number, column, "empty list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise RowProblem(number, column, "a message is no object with role and content")
        if not isinstance(message["content"], str):
            kind = type(message["content"]).__name__
            raise RowProblem(number, column, f"wrong type: a message's content is {kind}, not text")
        if message["role"] not in ROLES:
            raise RowProblem(number, column, f"unknown role {message['role']!r}")
        _check_text(number, column, message["content"])
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _field(number: int, row: Mapping, column: str):
    """A column's value: text that can be encoded, or a list of messages."""
    if column not in row:
        raise RowProblem(number, column, "missing")
    value = row[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowProblem(number, column, "missing (null)")
    if isinstance(value, str):
        _check_text(number, column, value)
        if not value.strip():
            raise RowProblem(number, column, "empty")
        return value
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return _messages(number, column, value)
    raise RowProblem(number, column, f"wrong type: {type(value).__name__}, not text or messages")


def _check_text(number: int, column: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem(number, column, "undecodable bytes (not UTF-8)") from None


def _kind(value: Text) -> str:
    return "text" if isinstance(value, str) else "messages"
