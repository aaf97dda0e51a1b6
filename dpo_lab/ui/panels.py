"""Parts of the workbench around its figure: the bar of buttons, what stands below the curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dpo_lab.analysis.frontier_curve import Theory, beyond, distance
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.history import History
from dpo_lab.training.records import SampleRecord
from dpo_lab.ui.controls import MAIN, Control
from dpo_lab.ui.samples import escaped, samples_table
from dpo_lab.ui.shelf import ShelvedRun

if TYPE_CHECKING:
    from dpo_lab.ui.workbench import Workbench

FELL = 0.05
"""Nats by which a mean log-ratio must be below zero before something is said of it."""
MOVED = 0.01
"""Probability that must have moved before it is told where: sums err by a millionth."""
RECENT = 20
"""Steps over which speed is averaged."""


def page(controls: dict[str, Control], *parts: widgets.Widget) -> widgets.Widget:
    """The workbench as one widget: controls, the rarer ones folded away, then the other parts."""
    views = {name: control.view for name, control in controls.items()}
    main = widgets.HBox([views.pop(name) for name in MAIN]).add_class("dpo-grid")
    more = widgets.HBox(list(views.values())).add_class("dpo-grid")
    folded = widgets.Accordion([more], titles=["Advanced"])
    return widgets.VBox([style(), main, folded, *parts]).add_class("dpo-workbench")


def style() -> widgets.HTML:
    """The look of the workbench, in the colours of JupyterLab's theme."""
    css = files("dpo_lab.ui").joinpath("workbench.css").read_text()
    return widgets.HTML(f"<style>{css}</style>").add_class("dpo-style")


def samples_panel(samples: Sequence[SampleRecord]) -> str:
    """Answers of the last evaluation, as HTML."""
    if not samples:
        return "<h3>Samples</h3><p class='note'>Answers to held-out prompts, once a run begins.</p>"
    note = f"Greedy answers to {len(samples)} held-out prompts after step {samples[0].step:,}."
    if cut := sum(sample.policy_cut for sample in samples):
        note += f" {cut} of the policy's were cut at their length limit."
    return f"<h3>Samples</h3><p class='note'>{note}</p>{samples_table(samples)}"


def notice(records: History, theory: Theory | None, aims_at_optimum: bool = True) -> str:
    """What the last step's log-ratios and distance from the frontier mean, as HTML."""
    longer = beyond(records).partition(".")
    longer = f"<b>{longer[0]}.</b>{longer[2]}" if longer[0] else ""
    said = [_displacement(records), longer, distance(records, theory, aims_at_optimum)]
    return "".join(f"<p>{words}</p>" for words in said if words)


def _displacement(records: History) -> str:
    """What was measured of the pairs' answers, and no more than that."""
    said = [_log_ratios(records), _mass(records)]
    return " ".join(words for words in said if words)


def _log_ratios(records: History) -> str:
    held_out = records.columns("eval/drift/chosen", "eval/drift/rejected")
    trained = records.columns("drift/chosen", "drift/rejected")
    of, found = ("held-out", held_out) if len(held_out) else ("the last batch's", trained)
    if not len(found) or found[-1, 1] > -FELL:
        return ""
    chosen, rejected = found[-1, 1:]
    which = "Both log-ratios are" if rejected < -FELL else "The chosen answers' log-ratio is"
    return (
        f"<b>{which} below zero</b> in the mean over {of} pairs (chosen {chosen:.2f}, rejected "
        f"{rejected:.2f} nats). DPO asks only that the rejected ones lose more. That does not show "
        "that probability left the pairs: over answers like the reference's own the mean is "
        "−KL(reference ‖ policy), never above 0."
    )


def _mass(records: History) -> str:
    """Who has the probability, where all answers are listed."""
    shares = records.columns("listed/own_pair", "listed/other_pairs", "listed/no_pair")[:, 1:]
    if len(shares) < 2 or abs(shares[-1] - shares[0]).max() < MOVED:
        return ""
    own, others, none = (f"from {a:.1%} to {b:.1%}" for a, b in zip(*shares[[0, -1]], strict=True))
    return (
        f"Summed over all answers, probability went {own} for a pair's own two, {others} for those "
        f"of other pairs, and <b>{none} for answers in no pair</b> (means over "
        f"{records.last('listed/pairs_n'):.0f} held-out pairs)."
    )


class Bar:
    """Buttons, progress and status of a workbench.

    Args:
        bench: Whose buttons they are.
    """

    def __init__(self, bench: Workbench):
        self._bench = bench
        self.train = _button("Train", "Train from the reference with these settings", "train")
        self.train.button_style = "primary"
        self.pause = _button("Pause", "Wait after the step in progress", "pause")
        self.stop = _button("Stop", "End the run; if it is kept, Resume takes it up again", "stop")
        self.step = _button("Step", "One optimiser step", "step")
        self.reset = _button("Reset", "Back to the reference: clear the curves", "reset")
        self.instant = widgets.Checkbox(
            value=bench.state.config.model == "micro",
            description="train when β is let go",
            tooltip="With no run going on, letting go of β trains anew; such runs are not kept",
            indent=False,
        ).add_class("dpo-instant")
        self.progress = widgets.FloatProgress(min=0, max=1).add_class("dpo-progress")
        self.numbers = widgets.HTML().add_class("dpo-numbers")
        self.status = widgets.HTML("idle").add_class("dpo-status")
        self.note = widgets.HTML().add_class("dpo-message")
        self.train.on_click(self._answering(self._if_all_is_right(bench.train)))
        self.pause.on_click(self._answering(self._pause_or_resume))
        self.stop.on_click(self._answering(bench.stop))
        self.step.on_click(self._answering(self._if_all_is_right(bench.step)))
        self.reset.on_click(self._answering(bench.reset))
        buttons = [self.train, self.pause, self.stop, self.step, self.reset, self.instant]
        line = [self.progress, self.numbers, self.status]
        rows = [widgets.HBox(row).add_class("dpo-bar") for row in (buttons, line)]
        self.view = widgets.VBox([*rows, self.note])
        bench.state.observe(self._model_changed, "config")
        self.show(None)

    def _model_changed(self, change) -> None:
        """Only micro is trained anew at once by itself."""
        if change["old"].model != change["new"].model:
            self.instant.value = change["new"].model == "micro"

    def show(
        self,
        run: BackgroundRun | ShelvedRun | None,
        error: BaseException | None = None,
        *,
        ready: bool = True,
        trouble: str = "",
    ) -> None:
        """Progress, speed and state of a run, what it failed with, or how ready the kernel is.

        Args:
            run: The run that is shown.
            error: What it failed with.
            ready: Whether the kernel is.
            trouble: What keeps the page from showing the curves.
        """
        running = isinstance(run, BackgroundRun) and run.running
        paused = running and run.control.paused
        resumable = isinstance(run, ShelvedRun) and run.unfinished
        self.train.disabled = self.reset.disabled = running
        self.stop.disabled = not running
        self.pause.disabled = not (running or resumable)
        self.pause.description = "Resume" if paused or resumable else "Pause"
        self.step.disabled = running and not paused
        self.progress.value = share_done(run)
        self.numbers.value = escaped(numbers(run))
        words = status(run, error, idle="idle" if ready else "getting ready")
        self.status.value = escaped(f"{words} · {trouble}" if trouble else words)

    def say(self, words: str) -> None:
        """Something in the status line."""
        self.status.value = escaped(words)

    def close(self, words: str) -> None:
        """No button answers any more; the status says why."""
        for button in (self.train, self.pause, self.stop, self.step, self.reset, self.instant):
            button.disabled = True
        self.say(words)

    def _if_all_is_right(self, work: Callable[[], object]) -> Callable[[], None]:
        """Work that begins a run, refused while a value is wrong."""

        def begin() -> None:
            wrong = list(self._bench.state.problems)
            if wrong and not (self._bench.run and self._bench.run.running):
                raise ValueError(f"mend what is wrong first: {', '.join(wrong)}")
            work()

        return begin

    def _pause_or_resume(self) -> None:
        run = self._bench.run
        if run and run.running and not run.control.paused:
            self._bench.pause()
        else:
            self._bench.resume()

    def _answering(self, work):
        """A click's work, whose refusal is told in the status line."""

        def clicked(_) -> None:
            try:
                work()
            except (RuntimeError, ValueError, OSError) as error:
                self.say(str(error))

        return clicked


def _steps(run: BackgroundRun | ShelvedRun | None) -> tuple[int, int]:
    """Steps done, and steps of the whole run."""
    step = run.records[-1].step if run and run.records else 0
    return step, (run.total_steps if run else 0) or step


def share_done(run: BackgroundRun | ShelvedRun | None) -> float:
    """How much of a run is done, from 0 to 1."""
    step, total = _steps(run)
    return step / total if total else 0


def status(
    run: BackgroundRun | ShelvedRun | None, error: BaseException | None = None, idle: str = "idle"
) -> str:
    """State, step and beta of a run, or what it failed with."""
    if error is not None:
        return f"failed: {error}"
    step, total = _steps(run)
    words = [run.state if run else idle, f"step {step}" + (f"/{total}" if total else "")]
    if run is not None:
        words.append(f"beta {run.records[-1].beta if run.records else run.config.beta:.3g}")
    return " · ".join(words)


def numbers(run: BackgroundRun | ShelvedRun | None) -> str:
    """What stands beside the progress: steps, speed, time left, memory; or what is waited for."""
    records = run.records if run else History()
    step, total = _steps(run)
    running = isinstance(run, BackgroundRun) and run.running
    doing = run.doing if running else None
    parts = [f"step {step}/{total}"] if total else []
    timing = records.columns("timing/seconds", "timing/pairs_per_second", "timing/peak_memory_gb")
    if len(timing):
        seconds, rate = timing[-RECENT:, 1].mean(), timing[-RECENT:, 2].mean()
        parts.append(f"{rate:,.0f} pairs/s" if rate >= 10 else f"{rate:.2f} pairs/s")
        if running:
            left = seconds * (total - step) + _evaluations_left(run, step, total)
            parts.append(f"{_duration(left)} left")
        parts.append(f"{timing[-1, 3]:.1f} GB")
    if doing:
        what, done, all_ = doing
        parts.append(f"{what} {done}/{all_}" if all_ else what)
    return " · ".join(parts)


def _evaluations_left(run: BackgroundRun, step: int, total: int) -> float:
    """Seconds that the evaluations to come will take, by those that were."""
    taken = run.records.columns("timing/evaluation_seconds")[-RECENT:, 1]
    if not len(taken):
        return 0.0
    every = run.config.eval_every
    return taken.mean() * (math.ceil(total / every) - step // every)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _button(words: str, tip: str, name: str) -> widgets.Button:
    return widgets.Button(description=words, tooltip=tip).add_class(f"dpo-{name}")
