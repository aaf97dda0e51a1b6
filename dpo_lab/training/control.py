"""Control of a running job from other threads: pause, stop, change beta or learning rate."""

from __future__ import annotations

import threading
from typing import Protocol

from dpo_lab.training.checks import check_range


class Control(Protocol):
    """What may be asked of a running run, here or in another process."""

    @property
    def paused(self) -> bool:
        """Whether the run was asked to pause between steps."""

    @property
    def resting(self) -> bool:
        """Whether the run is waiting between steps now."""

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to stop."""

    @property
    def asked(self) -> dict[str, float]:
        """New values of live settings that are not in force yet, by name."""

    def set(self, *, beta: float | None = None, learning_rate: float | None = None) -> None:
        """Change beta or the peak learning rate from the next step on."""

    def pause(self) -> None:
        """Pause after the step in progress."""

    def resume(self) -> None:
        """Continue a paused run."""

    def step(self, steps: int = 1) -> None:
        """Let a paused run take more steps."""

    def stop(self) -> None:
        """End the run after the step in progress, even if it is paused."""


class RunControl:
    """Pause, stop, and new values of beta and learning rate; all take effect between two steps.

    Args:
        stop_event: Setting it stops the run, as `stop` does; by default a new event.
    """

    def __init__(self, stop_event: threading.Event | None = None) -> None:
        self._condition = threading.Condition()
        self._paused = False
        self._stop_event = stop_event or threading.Event()
        self._resting = False
        self._steps_allowed = 0
        self._changes: dict[str, float] = {}

    @property
    def paused(self) -> bool:
        """Whether the run was asked to pause between steps."""
        return self._paused

    @property
    def resting(self) -> bool:
        """Whether the run is waiting between steps now."""
        return self._resting

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop_event.is_set()

    @property
    def asked(self) -> dict[str, float]:
        """New values of live settings that are not in force yet, by name."""
        return self._changes

    def set(self, *, beta: float | None = None, learning_rate: float | None = None) -> None:
        """Change beta or the peak learning rate from the next step on.

        Raises:
            ValueError: If a value is not a finite number > 0; then neither is changed.
        """
        requested = {"beta": beta, "learning_rate": learning_rate}
        for name, value in requested.items():
            check_range(name, value, 0, strict=True)
        with self._condition:
            self._changes |= {name: value for name, value in requested.items() if value is not None}

    def pause(self) -> None:
        """Pause after the step in progress."""
        with self._condition:
            self._paused, self._steps_allowed = True, 0

    def resume(self) -> None:
        """Continue a paused run."""
        with self._condition:
            self._paused, self._steps_allowed = False, 0
            self._condition.notify_all()

    def step(self, steps: int = 1) -> None:
        """Let a paused run take more steps.

        Raises:
            ValueError: If `steps` is less than 1.
        """
        check_range("steps", steps, 1, strict=False)
        with self._condition:
            self._steps_allowed += steps
            self._condition.notify_all()

    def stop(self) -> None:
        """End the run after the step in progress, even if it is paused."""
        with self._condition:
            self._stop_event.set()
            self._condition.notify_all()

    def wait_for_turn(self, timeout: float | None = None) -> dict[str, float] | None:
        """Called by the loop between steps: block while paused, then take the pending changes.

        Args:
            timeout: Most seconds to block.

        Returns:
            The changes; None if the run is still paused after that time.
        """
        with self._condition:
            self._resting = self._paused and not self._steps_allowed
            free = self._condition.wait_for(
                lambda: not self._paused or self.stopped or self._steps_allowed > 0, timeout
            )
            if not free:
                return None
            self._resting = False
            if self._paused and self._steps_allowed:
                self._steps_allowed -= 1
            changes, self._changes = self._changes, {}
            return changes
