"""All pairs of a data set as a run sees them: sort, pick one, see where its rewards come from."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets
from torch import Tensor

from dpo_lab.analysis.pair_margins import ORDERS, Order, PairMargins
from dpo_lab.analysis.token_credit import Credit, token_credit
from dpo_lab.data.pairs import Pair, prompt_text, response_text
from dpo_lab.objective.registry import LOSSES
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.ui.html.credit import credit_map
from dpo_lab.ui.html.output import Fragment, bundle, style
from dpo_lab.ui.html.tables import escaped, table
from dpo_lab.ui.widgets.table import Table

COLUMNS = {
    "#": 4, "Prompt": 18, "Chosen": 18, "Rejected": 18, "Δ log π, reference": 9,
    "Δ log π, policy": 9, "Reward margin": 9, "Label right": 7, "Flag": 8,
}  # fmt: skip
"""Titles, and widths in hundredths of the table."""
NUMBERS = ("#", "Δ log π, reference", "Δ log π, policy", "Reward margin", "Label right")
NOTE = (
    "Δ log π: log π(chosen) − log π(rejected), nats, by the reference and by the policy. Reward "
    "margin: β × (that of the policy − that of the reference). Label right: σ(reward margin), what "
    "the policy makes of the label."
)
ON_PAPER = 8
"""Rows of the table that stand in a page without a kernel."""
_LONGEST = 160
"""Letters of a text in the table; the credit below has it whole."""


class PairExplorer:
    """Pairs sorted by what a run makes of them; the picked one's token credit below.

    Args:
        job: The run's job; its policy gives the credit.
        scores: Of `score_pairs` with this job.
        planted: `(pairs,)`, true where a label is known to be wrong, to be marked.
        shown: How many pairs of an order are in the table.

    Attributes:
        table: The rows.
        view: All of it as one widget.

    Raises:
        ValueError: If `planted` is not one value a pair.
    """

    def __init__(
        self, job: Job, scores: PairMargins, *, planted: Tensor | None = None, shown: int = 100
    ):
        if planted is not None and len(planted) != len(scores):
            raise ValueError(
                f"planted holds {len(planted)} values, there are {len(scores)} pairs. Give one "
                "value a pair, in the same order."
            )
        self._job, self._scores, self._planted, self._shown = job, scores, planted, shown
        choices = [(f"{words} ({name})", name) for name, words in ORDERS.items()]
        self._order = widgets.Dropdown(options=choices, description="On top:")
        self._order.layout.width = "min(430px, 100%)"
        self._back = widgets.Button(description="Previous", tooltip="The pair above")
        self._next = widgets.Button(description="Next", tooltip="The pair below")
        self._where, self._credit = widgets.HTML(), widgets.HTML()
        label = "Pairs; arrow keys move, the credit of the picked pair is below"
        self.table = Table(label, COLUMNS, NUMBERS)
        look = widgets.HTML(f"<style>{style()}</style>").add_class("dpo-style")
        look.layout.display = "none"
        bar = widgets.HBox([self._order, self._back, self._next, self._where]).add_class("dpo-bar")
        self._has_probabilities = job.config.aims_at_optimum
        self._note = f"<p class='note'>{' '.join([NOTE, *map(escaped, caveats(job.config))])}</p>"
        note = widgets.HTML(f"<div class='dpo-inspect'>{self._note}</div>")
        parts = [look, bar, self.table.view, note, self._credit]
        self.view = widgets.VBox(parts).add_class("dpo-explorer")
        self._order.observe(lambda change: self._tried(self._sort), "value")
        self.table.observe(lambda change: self._tried(self._pick), "selected")
        self._back.on_click(lambda _: self.select(max(0, self.selected - 1)))
        self._next.on_click(lambda _: self.select(min(len(self.order) - 1, self.selected + 1)))
        self._sort()

    @property
    def sort(self) -> Order:
        """What stands on top: one of `ORDERS`."""
        return self._order.value

    @sort.setter
    def sort(self, by: Order) -> None:
        self._scores.order(by)  # refuses what is no order
        self._order.value = by

    @property
    def selected(self) -> int:
        """Place of the picked pair in the table, from 0."""
        return self.table.selected

    @property
    def pair(self) -> Pair:
        """The picked pair."""
        return self._scores.preferences[self._index]

    @property
    def credit(self) -> Fragment:
        """The picked pair's heat map."""
        prompt = prompt_text(self.pair.prompt)
        return credit_map(dict(zip(("chosen", "rejected"), self._credits(), strict=True)), prompt)

    def _credits(self) -> list[Credit]:
        """Of chosen and rejected."""
        tokens = self._scores.tokens[self._index]
        both = [(tokens.prompt, tokens.chosen), (tokens.prompt, tokens.rejected)]
        return token_credit(self._job.scorer, self._job.reference, both, self._scores.beta)

    def select(self, place: int) -> None:
        """Pick a row.

        Args:
            place: In the table, from 0.

        Raises:
            ValueError: If there is no such row.
        """
        if not 0 <= place < len(self.order):
            raise ValueError(
                f"place={place}: the table has rows 0 to {len(self.order) - 1}. Pick one of them, "
                "or make the explorer with a larger shown."
            )
        self.table.selected = place

    @property
    def _index(self) -> int:
        return self.order[self.selected]

    def _tried(self, work: Callable[[], None]) -> None:
        """Do what a page asked for; where it fails, say so in place of the former pair's credit."""
        try:
            work()
        except Exception as error:  # a callback's error is seen nowhere else
            words = escaped(f"{type(error).__name__}: {error}")
            self._credit.value = f"<div class='dpo-inspect'><p><b>Failed.</b> {words}</p></div>"

    def _sort(self) -> None:
        with self.table.hold_sync():
            self.order, self.table.rows, self._where.value = [], [], ""
            self._back.disabled = self._next.disabled = True
            self.order = self._scores.order(self.sort)[: self._shown].tolist()
            self.table.rows = [self._row(place) for place in range(len(self.order))]
            if self.selected:
                self.table.selected = 0  # which picks it
            else:
                self._pick()

    def _pick(self) -> None:
        """Show the credit of the picked pair; a page may ask for a row that is gone."""
        if not 0 <= self.selected < len(self.order):
            return
        self._back.disabled = self.selected == 0
        self._next.disabled = self.selected == len(self.order) - 1
        self._where.value = (
            f"pair {self.selected + 1} of {len(self.order)} shown, {len(self._scores):,} in all; "
            f"row {self.pair.row} of the data"
        )
        self._credit.value = f"<div class='dpo-inspect'>{self.credit.html}</div>"

    def _row(self, place: int) -> list[str]:
        index, scores = self.order[place], self._scores
        pair = scores.preferences[index]
        sides = (response_text(side) for side in (pair.chosen, pair.rejected))
        texts = [_short(text) for text in (prompt_text(pair.prompt), *sides)]
        values = (scores.before, scores.after, scores.reward_margins)
        numbers = [f"{value[index].item():+.2f}".replace("-", "−") for value in values]
        share = scores.label_probability[index].item()
        flag = "planted" if self._planted is not None and self._planted[index] else ""
        flag = flag or ("doubted" if share < 0.5 else "")
        right = f"{share:.0%}" if share >= 0.01 else "< 1%"
        right = right if self._has_probabilities else "–"
        return [str(place + 1), *texts, *numbers, right, flag]

    def _repr_mimebundle_(self, **options):
        words = "A table of pairs, sorted and picked by hand: run this cell to use it."
        rows = table(list(COLUMNS), self.table.rows[:ON_PAPER], NUMBERS, list(COLUMNS.values()))
        said = f"<p><em>{words}</em> On top: {escaped(ORDERS[self.sort])}.</p>"
        credit = self.credit
        paper = Fragment(f"{said}{rows}{self._note}{credit.html}", f"{words}\n{credit.words}")
        return bundle(self.view, options, paper.words, paper._repr_mimebundle_()["text/html"])


def caveats(config: TrainConfig) -> list[str]:
    """What else to know of the numbers, where a run did not train plain DPO.

    Args:
        config: The run's.
    """
    loss, said = config.loss_function, []
    if loss is not LOSSES["sigmoid"]:
        said.append(f"Trained with {loss.title}, whose rewards are {loss.rewards}.")
    divergence = config.loss_options.get("f_divergence_type", "reverse_kl")
    if divergence != "reverse_kl":
        said.append(f"The loss saw scores of {divergence} in place of log-ratios.")
    if config.ld_alpha is not None:
        said.append(
            f"As in the loss, what the longer answer has more counts {config.ld_alpha:g} here; the "
            "credit below counts every token in full."
        )
    if not config.aims_at_optimum:
        said.append(
            "σ(reward margin) is not this loss's probability of the label: it is left out, and the "
            "margins only sort."
        )
    return said


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
