"""Token inspector: a widget that shows any row of a data set, token by token, as a run uses it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import ipywidgets as widgets
from transformers import PreTrainedTokenizerBase

from dpo_lab.analysis.token_report import PairTokens, pair_tokens
from dpo_lab.data.pairs import PromptFormat, ScoreTurns
from dpo_lab.data.preferences import Preferences
from dpo_lab.data.tokenized_pairs import TokenizedPairs, tokenize_pairs
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.ui.html.output import bundle
from dpo_lab.ui.html.tables import escaped
from dpo_lab.ui.html.token_view import tokens_html

_UNCUT = 1_000_000_000
"""A limit that no row reaches."""


class TokenInspector:
    """Shows the tokens of a row and how a run uses them; a key or a click shows another row.

    Args:
        preferences: The pairs.
        tokenizer: The model's tokenizer.
        row: The row to show first, by its number in the source; by default the first row.
        max_length: As in `tokenize_pairs` and `TrainConfig`.
        max_prompt_length: The same.
        prompt_format: The same.
        score_turns: The same.
        policy: Scorer that gives each scored token its log-probability.
        reference: The same for the reference.

    Attributes:
        tokens: All pairs as a run would tokenise them; none if no pair can be used.
        changed: Numbers of the rows that were cut or dropped.
        pair: The tokens of the shown row; none for a row that was not loaded.
        slider: Slider of the row's number.
        limit: Input of the maximum number of tokens of a sequence.
        words: Text that says how many rows the limits change.
        page: The row, token by token, or why it cannot be shown.
        view: All of it as one widget.
    """

    def __init__(
        self,
        preferences: Preferences,
        tokenizer: PreTrainedTokenizerBase,
        *,
        row: int | None = None,
        max_length: int = 512,
        max_prompt_length: int | None = None,
        prompt_format: PromptFormat = "auto",
        score_turns: ScoreTurns = "all",
        policy: LogpScorer | None = None,
        reference: LogpScorer | Reference | None = None,
    ):
        self._preferences, self._tokenizer = preferences, tokenizer
        self._scorers = {"policy": policy, "reference": reference}
        self._max_prompt_length = max_prompt_length
        self._options = {"prompt_format": prompt_format, "score_turns": score_turns}
        # Of several pairs of a row, the first.
        self._pairs = {pair.row: pair for pair in reversed(preferences)}
        self._rows = sorted(self._pairs)
        self.pair: PairTokens | None = None
        ends = {"min": self._rows[0], "max": self._rows[-1]}
        self.slider = widgets.IntSlider(
            **ends, value=self._known(ends["min"] if row is None else row), description="row"
        ).add_class("dpo-row-slider")
        self.slider.continuous_update = False
        self.limit = widgets.BoundedIntText(
            value=_checked(max_length), min=2, max=_UNCUT, description="max_length"
        ).add_class("dpo-max-length")
        self.previous = self._button("‹ Previous", lambda: self._step(-1))
        self.next = self._button("Next ›", lambda: self._step(1))
        self.next_changed = self._button("Next cut or dropped ›", self._to_changed)
        self.table = widgets.Checkbox(description="all tokens in words", indent=False)
        self.words, self.page = widgets.HTML(), widgets.HTML()
        self.view = self._laid_out()
        self._count()
        self.slider.observe(lambda change: self._tried(self._draw), "value")
        self.table.observe(lambda change: self._tried(self._draw), "value")
        self.limit.observe(lambda change: self._tried(self._count), "value")

    @property
    def row(self) -> int:
        """Number of the shown row; set it to show another."""
        return self.slider.value

    @row.setter
    def row(self, number: int) -> None:
        self.slider.value = self._known(number)

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a sequence; set it to see what is cut."""
        return self.limit.value

    @max_length.setter
    def max_length(self, tokens: int) -> None:
        self.limit.value = _checked(tokens)

    def _known(self, number: int) -> int:
        if number not in self._pairs:
            raise ValueError(
                f"row={number}: {self._missing(number)}. "
                f"Rows run from {self._rows[0]} to {self._rows[-1]}."
            )
        return number

    def _missing(self, number: int) -> str:
        """Why a row is not among the pairs."""
        for problem in self._preferences.report.problems:
            if problem.row == number:
                return f"was skipped on loading ({problem})"
        return "is not among the pairs that were loaded"

    def _button(self, words: str, work: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=words, layout=widgets.Layout(width="auto"))
        button.on_click(lambda _: work())
        return button

    def _laid_out(self) -> widgets.Widget:
        self.slider.layout.width = "min(340px, 95%)"
        self.slider.style.description_width = "30px"
        self.limit.layout.width = "170px"
        self.table.layout.width = "auto"
        wrapped = widgets.Layout(flex_flow="row wrap", align_items="center")
        first = widgets.HBox([self.slider, self.previous, self.next, self.next_changed])
        second = widgets.HBox([self.limit, self.table, self.words])
        first.layout = second.layout = wrapped
        return widgets.VBox([first, second, self.page]).add_class("dpo-inspector")

    def _step(self, by: int) -> None:
        """Go to the row before or after, if there is one."""
        find = bisect_right if by > 0 else bisect_left
        index = find(self._rows, self.row) - (by < 0)
        if 0 <= index < len(self._rows):
            self.row = self._rows[index]

    def _to_changed(self) -> None:
        """Go to the next row that was cut or dropped; after the last, to the first."""
        index = bisect_right(self.changed, self.row)
        self.row = self.changed[index % len(self.changed)]

    def _limits(self) -> dict[str, int | None]:
        return {"max_length": self.max_length, "max_prompt_length": self._max_prompt_length}

    def _tried(self, work: Callable[[], None]) -> None:
        """Do what a page asked for; if it fails, show the error in place of the row."""
        try:
            work()
        except Exception as error:  # a callback's error would be lost
            self.pair = None
            words = f"Row {self.row} cannot be shown. {type(error).__name__}: {error}"
            self.page.value = f"<p>{escaped(words)}</p>"

    def _count(self) -> None:
        """Find the rows that the limits change, then redraw the shown row."""
        self.tokens, self.changed, self.words.value = None, [], ""
        self.next_changed.disabled = True
        try:
            self.tokens = self._tokenized(**self._limits())
            words = f"{self.tokens}"
            same = not (self.tokens.truncated_prompts or self.tokens.truncated_responses)
            words += ", none cut" * same + ", none dropped" * (not self.tokens.dropped)
        except ValueError as error:  # no pair is left; each row can still be shown
            words = str(error)
        self.changed = self._find_changed()
        self.next_changed.disabled = not self.changed
        self.words.value = escaped(f"{self._preferences.report}; {words}")
        self._draw()

    def _tokenized(self, **limits: int | None) -> TokenizedPairs:
        options = {**self._options, "on_bad_rows": "skip"}
        return tokenize_pairs(self._preferences, self._tokenizer, **options, **limits)

    def _find_changed(self) -> list[int]:
        if self.tokens is None:
            return self._rows
        kept = {pair.row: pair for pair in self.tokens}
        if not (self.tokens.truncated_prompts or self.tokens.truncated_responses):
            return [row for row in self._rows if row not in kept]
        whole = {pair.row: pair for pair in self._tokenized(max_length=_UNCUT)}
        return [row for row in self._rows if row not in kept or kept[row] != whole[row]]

    def _draw(self) -> None:
        if self.row in self._pairs:
            self.pair = pair_tokens(
                self._pairs[self.row],
                self._tokenizer,
                **self._options,
                **self._limits(),
                **self._scorers,
            )
            self.page.value = tokens_html(self.pair, table="open" if self.table.value else "none")
        else:  # the slider runs over numbers that loading skipped
            self.pair = None
            words = f"Row {self.row} {self._missing(self.row)}."
            self.page.value = f"<p>{escaped(words)}</p>"

    def _repr_mimebundle_(self, **options):
        words = f"Tokens of row {self.row}: run this cell to look at others."
        page = f"{self.page.value}<p><em>{words}</em></p>"
        return bundle(self.view, options, words, page)


def _checked(max_length: int) -> int:
    """Check a limit that the input would otherwise clamp without a message."""
    if not 2 <= max_length <= _UNCUT:
        raise ValueError(
            f"max_length={max_length}: must be from 2, one token of prompt and one of response, to "
            f"{_UNCUT}. Choose a limit between them."
        )
    return max_length
