"""An annotation session on disk: a click log, and the preference pairs made from it.

clicks.log         one JSON line per click (A, B, tie, skip, undo), synced before it takes effect
preferences.jsonl  the pairs of the answers in effect: `load_preferences` and TRL read it
clicks.log.cut     torn last lines, left by a kill or a power cut
*.before           a `preferences.jsonl` that was changed by hand
.lock              held while a session is open

The pairs are made from the log after every click and whenever the session is opened. A kill after
a click may leave them one click behind until the session is opened again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpo_lab.annotation.click_log import append, begin, keep_aside, mend_end
from dpo_lab.annotation.questions import CHOICES, Answer, Choice, Question
from dpo_lab.training.files import json_lines, sync, write_text

UNDO = "undo"


class Session:
    """One annotator's answers on disk; a new session, or an earlier one reopened.

    Args:
        path: The session's folder.

    Attributes:
        answers: The answers in effect, in order.
        taken_back: Questions whose answers were undone, to be asked again, the next one last.
        clicks: Number of lines in the log, which grows with every click.
        next_number: Number of the next new question.
        next_draw: Number of the next draw.
        notes: Problems found in the files and how they were resolved, in words.

    Raises:
        FileExistsError: If the session is already open, in this process or in another.
        NotADirectoryError: If the path, or one above it, is a file.
        ValueError: If a complete line of the log is invalid, or there are pairs without a log.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.notes: list[str] = []
        # Contents of the file of pairs that this session wrote; others were changed by hand.
        self._written = {b""}
        self._forget()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(
                f"{self.path}: this path, or one above it, is a file, but a session is a folder. "
                "Give another path."
            ) from None
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
            self._begin()
            self._read()
            self._write_pairs()
        except BaseException:
            self._lock.release()
            raise

    @property
    def log(self) -> Path:
        """The click log."""
        return self.path / "clicks.log"

    @property
    def file(self) -> Path:
        """The file of preference pairs."""
        return self.path / "preferences.jsonl"

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The rows of `preferences.jsonl`, one for every A and B in effect."""
        return [row for answer in self.answers if (row := answer.row)]

    @property
    def agreements(self) -> list[bool]:
        """For each question that was asked and answered twice: whether both answers agree."""
        first = {answer.question.number: answer for answer in self.answers}
        return [
            first[answer.question.repeats].winner == answer.winner
            for answer in self.answers
            if answer.question.repeats in first
            and "skip" not in (answer.choice, first[answer.question.repeats].choice)
        ]

    def count(self, *choices: Choice) -> int:
        """Number of answers in effect with one of these choices."""
        return sum(answer.choice in choices for answer in self.answers)

    def add(self, question: Question, choice: Choice) -> None:
        """Add an answer: on disk when this returns.

        Args:
            question: The question that was shown.
            choice: The choice that was clicked.

        Raises:
            ValueError: If there is no such choice, or the question is already answered.
            OSError: If it cannot be written; unless it is in the log, nothing has changed.
        """
        if choice not in CHOICES:
            raise ValueError(f"choice={choice!r}: unknown. Use one of {', '.join(CHOICES)}.")
        self._click({"choice": choice, **asdict(question)})

    def undo(self) -> Question | None:
        """Undo the last answer; its question waits for a new one.

        Returns:
            The question; none if there is no answer to undo.

        Raises:
            OSError: As in `add`.
        """
        self._make_sure()
        if not self.answers:
            return None
        question = self.answers[-1].question
        self._click({"choice": UNDO, "number": question.number})
        return question

    def close(self) -> None:
        """Release the lock, so that the session can be opened elsewhere."""
        self._lock.release()

    def _click(self, line: Mapping[str, Any]) -> None:
        """Log a click, then apply it; after an interrupt, memory is rebuilt from the log."""
        self._make_sure()
        self._check(line)
        self._unsure = True
        try:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            append(self.log, {**line, "time": time})
            self._take(line)
            self._unsure = False
        except BaseException:  # an interrupt can come anywhere
            self._make_sure()
            raise
        self._write_pairs()

    def _make_sure(self) -> None:
        """Check that the session is open; reread the log if a click was interrupted."""
        if not self._lock.is_locked:
            raise ValueError(f"{self.path}: this session was closed. Open it again to go on.")
        if self._unsure:
            self._read()

    def _check(self, line: Mapping[str, Any]) -> None:
        """Refuse a line that cannot follow the earlier ones."""
        if line["choice"] not in (*CHOICES, UNDO):
            raise ValueError(f"unknown choice {line['choice']!r}")
        number = line["number"]
        if line["choice"] != UNDO and number in self._answered:
            raise ValueError(f"question {number}: answered already. Take that answer back first")
        if line["choice"] == UNDO and [number] != [a.question.number for a in self.answers[-1:]]:
            raise ValueError(f"question {number} was not the last to be answered")

    def _take(self, line: Mapping[str, Any]) -> None:
        """Apply a line of the log."""
        self._check(line)
        if line["choice"] == UNDO:
            self.taken_back.append(self.answers.pop().question)
            self._answered.remove(line["number"])
        else:
            question = Question.from_dict(line)
            self.next_number = max(self.next_number, question.number + 1)
            self.next_draw = max(self.next_draw, question.draw + 1)
            self.taken_back = [old for old in self.taken_back if old.number != question.number]
            self.answers.append(Answer(question, line["choice"]))
            self._answered.add(question.number)
        self.clicks += 1

    def _forget(self) -> None:
        self.answers: list[Answer] = []
        self.taken_back: list[Question] = []
        self.clicks, self.next_number, self.next_draw = 0, 1, 0
        self._answered: set[int] = set()
        self._unsure = True

    def _begin(self) -> None:
        """Create the log if there is none."""
        if self.log.exists():
            return
        if self.file.exists() and self.file.stat().st_size:
            raise ValueError(
                f"{self.file}: there are pairs, but no {self.log.name} that they come from, and a "
                "session would overwrite them. Give another folder, or restore the log."
            )
        begin(self.log)

    def _read(self) -> None:
        self._forget()
        if note := mend_end(self.log):
            self.notes.append(note)
        lines = self.log.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            if number == len(lines):  # a kill may have left the pairs one click behind
                self._written.add(json_lines(self.pairs).encode())
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{self.log}, line {number}: broken ({error}). It was changed by hand, by a "
                    "fault or by another version: fix the line, or give another folder."
                ) from None
        self._unsure = False

    def _write_pairs(self) -> None:
        text = json_lines(self.pairs)
        self._written.add(text.encode())
        if self.file.exists() and self.file.read_bytes() not in self._written:
            kept = keep_aside(self.file)
            self.notes.append(
                f"{self.file} did not match the clicks. It was rebuilt from them; the old file is "
                f"kept in {kept}."
            )
        write_text(self.file, text)
        self._written = {text.encode()}
        sync(self.path)
