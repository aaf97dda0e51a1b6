"""The command `follow`: watch and steer a run that another process trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, say

if TYPE_CHECKING:
    from dpo_lab.training.followed import FollowedRun

ASKED = ("pause", "resume", "stop")
ANSWER = 30.0
"""Seconds to wait for the run's answer: a step of a large model takes its time."""


@dataclass(frozen=True)
class Follow:
    """Watch a run that another process trains, here or on a shared folder; or ask it for something.

    Examples:
      dpo-lab follow runs/mine
      dpo-lab follow runs/mine --beta 0.3
      dpo-lab follow runs/mine --pause
    """

    folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    beta: Annotated[float | None, SAID] = None
    """Another beta, from the next step on."""
    learning_rate: Annotated[float | None, SAID] = None
    """Another peak learning rate, from the next step on."""
    pause: Flag = False
    """Pause after the step in progress."""
    resume: Flag = False
    """Go on after a pause."""
    step: Annotated[int | None, SAID] = None
    """Let a paused run take this many steps."""
    stop: Flag = False
    """End the run after the step in progress, with a checkpoint."""

    def __call__(self) -> None:
        """Follow until the run ends, or ask and wait for its answer."""
        from dpo_lab.training.followed import FollowedRun

        run = FollowedRun(self.folder)
        values = {"beta": self.beta, "learning_rate": self.learning_rate}
        asked: list[Callable[[], None]] = []
        if any(value is not None for value in values.values()):
            asked.append(lambda: run.control.set(**values))
        asked += [getattr(run.control, name) for name in ASKED if getattr(self, name)]
        if self.step is not None:
            asked.append(lambda: run.control.step(self.step))
        if asked:
            _ask(run, asked)
        else:
            _follow(run)


def _ask(run: FollowedRun, asked: list[Callable[[], None]]) -> None:
    """Ask the run, and say from which step on it is in force.

    Raises:
        ValueError: If no process trains the run, or it refuses.
    """
    end = time.monotonic() + ANSWER
    if run.alive:
        for request in asked:
            request()
    while run.alive and run.control.waits_for_answers() and time.monotonic() < end:
        time.sleep(0.1)
        run.look()
    if run.control.refused:
        raise ValueError("; ".join(run.control.refused.values()))
    if run.control.answered_from is not None:
        print(f"In force from step {run.control.answered_from}.")
    elif run.alive:
        say("The run has not answered yet; it will between two steps.")
    else:
        raise ValueError(
            f"{run.folder}: no process trains this run. Go on with it first: "
            f"dpo-lab train --resume --out {run.folder}"
        )


def _follow(run: FollowedRun) -> None:
    """Show a run until it ends; an interrupt ends only this."""
    from dpo_lab.cli.terminal import TerminalDisplay, print_outcome
    from dpo_lab.training.followed import LOOKS

    console = new_console()
    display = TerminalDisplay(console, run.config.method)
    state, shown = "training", 0
    display.on_start(None, run.records[0].step if run.records else 0, run.total_steps or 0)
    try:
        while True:
            for record in run.records[shown:]:
                display.on_step(record)
            shown = len(run.records)
            if run.doing:
                display.on_wait(*run.doing)
            ended = run.how_it_ended()
            if ended:
                break
            if run.state != state:
                state = run.state
                say(state)
            time.sleep(LOOKS)
            before = run.records
            run.look()
            if run.records is not before:  # the run was resumed from an earlier step
                shown = 0
    except KeyboardInterrupt:
        display.close()
        say("no longer followed; the run goes on")
        return
    display.close()
    if ended in ("done", "stopped"):
        print_outcome(console, run.run.summary, run.samples)
        console.print(f"{ended}: {run.folder}", markup=False)
        return
    say(f"error: {run.error}")
    raise SystemExit(1)
