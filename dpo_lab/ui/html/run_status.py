"""The state of a run in words and HTML: progress, speed, answers, what its last step means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from dpo_lab.analysis.frontier_curve import FrontierCurve, beyond, distance
from dpo_lab.training.history import History
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.ongoing import OngoingRun
from dpo_lab.training.records import SampleRecord
from dpo_lab.ui.html.tables import samples_table

FELL = 0.05
"""Nats by which a mean log-ratio must be below zero before something is said of it."""
MOVED = 0.01
"""Probability that must have moved before it is told where: sums err by a millionth."""
RECENT = 20
"""Steps over which speed is averaged."""


class ShownRun(Protocol):
    """A run that is going on or has ended."""

    @property
    def records(self) -> History:
        """Its records."""

    @property
    def live(self) -> LiveSettings:
        """Beta and peak learning rate of its newest step."""

    @property
    def state(self) -> str:
        """In a word."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; 0 where that is not known."""


def samples_panel(samples: Sequence[SampleRecord]) -> str:
    """Answers of the last evaluation, as HTML."""
    if not samples:
        return "<h3>Samples</h3><p class='note'>Greedy answers, once a run begins.</p>"
    note = f"Greedy answers to {len(samples)} prompts after step {samples[0].step:,}."
    if cut := sum(sample.policy_cut for sample in samples):
        note += f" {cut} of the policy's were cut at their length limit."
    return f"<h3>Samples</h3><p class='note'>{note}</p>{samples_table(samples)}"


def notice(records: History, theory: FrontierCurve | None, aims_at_optimum: bool = True) -> str:
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
    held_out = records.columns("eval/logratios/chosen", "eval/logratios/rejected")
    trained = records.columns("logratios/chosen", "logratios/rejected")
    of, found = ("held-out", held_out) if len(held_out) else ("the last batch's", trained)
    if not len(found) or found[-1, 1] > -FELL:
        return ""
    step, chosen, rejected = found[-1]
    which = "Both log-ratios are" if rejected < -FELL else "The chosen answers' log-ratio is"
    return (
        f"<b>{which} below zero</b> in the mean over {of} pairs (step {step:.0f}: chosen "
        f"{chosen:.2f}, rejected {rejected:.2f} nats). DPO asks only that the rejected ones lose "
        "more. That does not show that probability left the pairs: over answers like the "
        "reference's own the mean is −KL(reference ‖ policy), never above 0."
    )


def _mass(records: History) -> str:
    """Who has the probability, where all answers are listed."""
    found = records.columns("listed/own_pair", "listed/other_pairs", "listed/no_pair")
    shares = found[:, 1:]
    if len(shares) < 2 or abs(shares[-1] - shares[0]).max() < MOVED:
        return ""
    own, others, none = (f"from {a:.1%} to {b:.1%}" for a, b in zip(*shares[[0, -1]], strict=True))
    return (
        f"Summed over all answers, until step {found[-1, 0]:.0f} probability went {own} for a "
        f"pair's own two, {others} for those of other pairs, and <b>{none} for answers in no "
        f"pair</b> (means over {records.last('listed/pairs_n'):.0f} held-out pairs)."
    )


def _steps(run: ShownRun | None) -> tuple[int, int]:
    """Steps done, and steps of the whole run; 0 where that is not known."""
    step = run.records[-1].step if run and run.records else 0
    # One that is prepared, or is taken up again, does not know it yet; an older one never did.
    known = step if run and run.state == "done" else 0
    return step, (run.total_steps if run else 0) or known


def share_done(run: ShownRun | None) -> float:
    """How much of a run is done, from 0 to 1."""
    step, total = _steps(run)
    return step / total if total else 0


def status(run: ShownRun | None, error: BaseException | None = None, idle: str = "idle") -> str:
    """State, step and beta of a run, or what it failed with."""
    if error is not None:
        return f"failed: {error}"
    step, total = _steps(run)
    words = [run.state if run else idle, f"step {step}" + (f"/{total}" if total else "")]
    if run is not None:
        words.append(f"beta {run.live.beta:.3g}")
    if isinstance(run, OngoingRun) and run.running:
        names = {"beta": "beta", "learning_rate": "rate"}
        words += [f"asked: {names[n]} {value:.3g}" for n, value in run.control.asked.items()]
    return " · ".join(words)


def numbers(run: ShownRun | None) -> str:
    """What stands beside the progress: steps, speed, time left, memory; or what is waited for."""
    records = run.records if run else History()
    step, total = _steps(run)
    running = isinstance(run, OngoingRun) and run.running
    doing = run.doing if running else None
    parts = [f"step {step}/{total}"] if total else []
    timing = records.columns("timing/seconds", "timing/pairs_per_second", "timing/peak_memory_gb")
    if len(timing):
        seconds, rate = timing[-RECENT:, 1].mean(), timing[-RECENT:, 2].mean()
        parts.append(f"{rate:,.0f} pairs/s" if rate >= 10 else f"{rate:.2f} pairs/s")
        if running and total:
            left = seconds * (total - step) + _evaluations_left(run, step, total)
            parts.append(f"{_duration(left)} left")
        parts.append(f"{timing[-1, 3]:.1f} GB")
    if doing:
        what, done, all_ = doing
        parts.append(f"{what} {done}/{all_}" if all_ else what)
    return " · ".join(parts)


def _evaluations_left(run: OngoingRun, step: int, total: int) -> float:
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
