"""What a person clicked: an append-only log, and the preference pairs that follow from it.

clicks.log         one JSON line a click (A, B, tie, skip, undo), synced before it counts
preferences.jsonl  the pairs of the answers in effect: `load_preferences` and TRL read it
.lock              held while a session is open

The log is what was said; the pairs are made of it after every click and whenever the session is
opened. A kill between the two leaves the pairs one click behind, until then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from dpo_lab.data.preferences import answer_to
from dpo_lab.data.rows import Text
from dpo_lab.training.files import sync, write_text

Choice = Literal["A", "B", "tie", "skip"]
CHOICES = get_args(Choice)
UNDO = "undo"


@dataclass(frozen=True)
class Question:
    """Two answers side by side, as they were shown.

    Attributes:
        number: Of the question in its session, from 1.
        prompt: Text, or messages.
        a: The answer on the left.
        b: The answer on the right.
        draw: Number of the draw that gave the two answers.
        model: Whose answers they are: name and the first letters of the weights' hash.
        repeats: Number of the earlier question that this one asks again with its sides swapped.
    """

    number: int
    prompt: Text
    a: str
    b: str
    draw: int
    model: str = ""
    repeats: int | None = None


@dataclass(frozen=True)
class Answer:
    """A question and what was clicked.

    Attributes:
        question: The question.
        choice: The side that is better, tie (they are alike) or skip (no answer at all).
    """

    question: Question
    choice: Choice

    @property
    def winner(self) -> str | None:
        """The text that was preferred; none after a tie or a skip."""
        return {"A": self.question.a, "B": self.question.b}.get(self.choice)

    @property
    def row(self) -> dict[str, Text] | None:
        """As a preference pair; none after a tie or a skip, which train nothing."""
        prompt, texts = self.question.prompt, (self.question.a, self.question.b)
        if self.winner is None:
            return None
        chosen, rejected = texts if self.choice == "A" else texts[::-1]
        return {
            "prompt": prompt,
            "chosen": answer_to(prompt, chosen),
            "rejected": answer_to(prompt, rejected),
        }


class Session:
    """The answers of one person, on disk; begun, or found as they were left.

    Args:
        path: The session's folder.

    Attributes:
        answers: Those in effect, in order.
        taken_back: Questions whose answer was undone and that wait for another, the next one last.
        clicks: Lines of the log: every click changes it.
        next_number: Number of the next new question.
        next_draw: Number of the next draw.
        mended: What was wrong with the log's end, in words; empty if nothing was.

    Raises:
        FileExistsError: If the session is open already, in this process or in another.
        ValueError: If the log is broken before its last line.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.answers: list[Answer] = []
        self.taken_back: list[Question] = []
        self.clicks, self.next_number, self.next_draw = 0, 1, 0
        self.mended = ""
        self.path.mkdir(parents=True, exist_ok=True)
        # Clicks and closing may come from different threads.
        self._lock = FileLock(self.path / ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(
                f"{self.path}: this session is open already, here or in another process. "
                "Close it there, or give another folder."
            ) from None
        try:
            self._read()
            self._write_pairs()
        except BaseException:
            self._lock.release()
            raise

    @property
    def log(self) -> Path:
        """File of the clicks."""
        return self.path / "clicks.log"

    @property
    def file(self) -> Path:
        """File of the preference pairs."""
        return self.path / "preferences.jsonl"

    @property
    def pairs(self) -> list[dict[str, Text]]:
        """Rows with `prompt`, `chosen`, `rejected`, one for every A and B in effect."""
        return [row for answer in self.answers if (row := answer.row)]

    @property
    def agreements(self) -> list[bool]:
        """For every question asked twice and answered both times: was the answer the same?"""
        first = {answer.question.number: answer for answer in self.answers}
        return [
            first[answer.question.repeats].winner == answer.winner
            for answer in self.answers
            if answer.question.repeats in first
            and "skip" not in (answer.choice, first[answer.question.repeats].choice)
        ]

    def count(self, *choices: Choice) -> int:
        """How many of the answers in effect are one of these."""
        return sum(answer.choice in choices for answer in self.answers)

    def add(self, question: Question, choice: Choice) -> None:
        """Take an answer: on disk when this returns.

        Args:
            question: What was asked.
            choice: What was clicked.

        Raises:
            ValueError: If there is no such choice.
            OSError: If it cannot be written; unless the log took it, nothing has changed.
        """
        if choice not in CHOICES:
            raise ValueError(f"choice={choice!r}: unknown. Use one of {', '.join(CHOICES)}.")
        self._append({"choice": choice, **asdict(question)})
        self._write_pairs()

    def undo(self) -> Question | None:
        """Take the last answer back; its question waits for another.

        Returns:
            The question; none if there is no answer.

        Raises:
            OSError: As in `add`.
        """
        if not self.answers:
            return None
        question = self.answers[-1].question
        self._append({"choice": UNDO, "number": question.number})
        self._write_pairs()
        return question

    def close(self) -> None:
        """Let others open it."""
        self._lock.release()

    def _append(self, line: Mapping[str, Any]) -> None:
        if not self._lock.is_locked:
            raise ValueError(f"{self.path}: this session was closed. Open it again to go on.")
        line = {**line, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, json.dumps(line).encode() + b"\n")
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)  # half a line would spoil the next one
            raise
        finally:
            os.close(handle)
        self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        """What a line of the log means."""
        if line["choice"] == UNDO:
            if self.answers[-1].question.number != line["number"]:
                raise ValueError(f"question {line['number']} was not the last to be answered")
            self.taken_back.append(self.answers.pop().question)
        elif line["choice"] in CHOICES:
            question = Question(**{field.name: line[field.name] for field in fields(Question)})
            self.next_number = max(self.next_number, question.number + 1)
            self.next_draw = max(self.next_draw, question.draw + 1)
            self.taken_back = [one for one in self.taken_back if one.number != question.number]
            self.answers.append(Answer(question, line["choice"]))
        else:
            raise ValueError(f"unknown choice {line['choice']!r}")
        self.clicks += 1

    def _read(self) -> None:
        if not self.log.exists():
            self.log.touch()
            for made in (self.log, self.path, self.path.parent):
                sync(made)
            return
        data = self.log.read_bytes()
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError) as error:
                if number < len(lines):
                    raise ValueError(
                        f"{self.log}, line {number}: broken ({error}). It was changed by hand or "
                        "by a fault: mend the line, or move the file away to begin anew."
                    ) from None
                self._mend(data.removesuffix(line))
                cut = repr(line[:60].decode(errors="replace"))
                self.mended = f"the last line of {self.log} was cut short and is left out: {cut}"
                return
        if lines and not lines[-1].endswith(b"\n"):
            self._mend(data + b"\n")

    def _mend(self, data: bytes) -> None:
        scratch = self.log.with_name("clicks.log.next")
        scratch.write_bytes(data)
        sync(scratch)
        os.replace(scratch, self.log)
        sync(self.path)

    def _write_pairs(self) -> None:
        write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.pairs))
        sync(self.path)


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
