"""What is seen of one pair by itself: markup, form, script, scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpo_lab.data.messages import Message
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pairs import SIDES, Pair, Text, prompt_text, response_text
from dpo_lab.data.preflight.findings import Example, Tally, shortened
from dpo_lab.data.preflight.markup import Markup
from dpo_lab.data.preflight.signs import FORMS, NO_SCRIPT, SCRIPT_NAMES, script_of

_SPACE = re.compile(r"\s+")


@dataclass
class PairSigns:
    """Counts what is seen of single pairs.

    Attributes:
        split: Name of their split.
        tally: Counts by name.
        markup: Finds chat markup.
    """

    split: str
    tally: Tally
    markup: Markup

    def add(self, name: str, pair: Pair, beside: str = "") -> None:
        """Count a pair, shown by its prompt."""
        self._add(name, pair, prompt_text(pair.prompt), beside)

    def _add(self, name: str, pair: Pair, text: str, beside: str) -> None:
        self.tally.add(
            name,
            pair.row,
            lambda: Example(pair.row, self.split, shortened(text), shortened(beside, 240)),
        )

    def look(
        self, pair: Pair, ids: TokenizedPair | None, scores: tuple[float, float] | None
    ) -> dict[str, int]:
        """Count what is seen of a pair, and give its scripts."""
        sides = [response_text(getattr(pair, side)) for side in SIDES]
        for note in ids.notes if ids else ():
            self.add(f"note/{note}", pair)
        if scores:
            name = {True: "score_against", False: "score_tied"}.get(scores[0] < scores[1])
            if scores[0] <= scores[1]:
                self.add(name, pair, f"chosen {scores[0]:g}, rejected {scores[1]:g}")
        if abs(len(sides[0]) - len(sides[1])) < 40 and _plain(sides[0]) == _plain(sides[1]):
            self._add("same_but_space", pair, sides[0], sides[1])
        self._look_at_markup(pair, sides, ids is not None and ids.rendered)
        self._look_at_forms(pair, sides)
        scripts = [script_of(text) for text in (prompt_text(pair.prompt), *sides)]
        if len(set(scripts)) > 1:
            self._look_at_scripts(pair, scripts)
        names = ("prompt_script", "chosen_script", "rejected_script")
        return dict(zip(names, scripts, strict=True))

    def _look_at_markup(self, pair: Pair, sides: list[str], rendered: bool) -> None:
        whole = whole_text(pair.prompt)
        for text in (whole, *sides):
            if mark := self.markup.foreign(text):
                at = text.index(mark[0])
                part = text[max(0, at - 60) : at + 80]
                self._add("foreign_markup", pair, part, f"{mark[0]} of {mark[1]}")
                break
        for side, text in zip(SIDES, sides, strict=True):
            _, ends = self.markup.without_ends(text)
            if ends + rendered > 1:
                self._add("end_twice", pair, text[-100:], f"{side} ends with {ends} in its text")
                break
        if rendered:
            for text in (whole, *sides):
                if mark := self.markup.inside(text):
                    at = text.index(mark)
                    part = text[max(0, at - 60) : at + 80]
                    self._add("own_markup", pair, part, f"{mark} inside a message")
                    break

    def _look_at_forms(self, pair: Pair, sides: list[str]) -> None:
        for name, form in FORMS.items():
            chosen, rejected = map(form.measure, sides)
            if chosen != rejected:
                more = "more" if chosen > rejected else "less"
                texts = f"chosen: {sides[0]}", f"rejected: {sides[1]}"
                self._add(f"form/{name}/{more}", pair, *texts)

    def _look_at_scripts(self, pair: Pair, scripts: Sequence[int]) -> None:
        prompt, chosen, rejected = scripts
        if NO_SCRIPT in (SCRIPT_NAMES[script] for script in scripts):
            return
        if (chosen == prompt) != (rejected == prompt):
            more = "more" if chosen == prompt else "less"
            texts = [f"{side}: {response_text(getattr(pair, side))}" for side in SIDES]
            self._add(f"form/script/{more}", pair, *texts)
        if chosen != prompt:
            self._add("script_differs", pair, prompt_text(pair.prompt), response_text(pair.chosen))


def whole_text(prompt: Text | list[Message]) -> str:
    """All of a prompt's text."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)


def _plain(text: str) -> str:
    return _SPACE.sub("", text.casefold())
