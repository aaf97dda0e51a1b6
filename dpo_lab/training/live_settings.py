"""The settings that may change during a run: beta and the peak learning rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig
    from dpo_lab.training.history import History


@dataclass(frozen=True)
class LiveSettings:
    """Values of the settings that may change, at one moment of a run.

    Attributes:
        beta: Larger keeps the policy closer to the reference.
        learning_rate: The schedule's peak; None for an unresolved default.
    """

    beta: float
    learning_rate: float | None

    @classmethod
    def of(cls, config: TrainConfig) -> LiveSettings:
        """The values at the start of a run with this configuration."""
        return cls(*(getattr(config, name) for name in LIVE))

    @classmethod
    def after(cls, config: TrainConfig, records: History) -> LiveSettings:
        """The values after the last record of a run."""
        changed = records.last("change/learning_rate")
        return cls(
            records[-1].beta if records else config.beta,
            config.learning_rate if changed is None else changed,
        )

    def as_dict(self) -> dict[str, float | None]:
        """The values by name."""
        return asdict(self)

    def changed_from(self, before: LiveSettings) -> dict[str, float | None]:
        """The values that differ from those before, by name."""
        old = before.as_dict()
        return {name: value for name, value in self.as_dict().items() if value != old[name]}


LIVE = tuple(field.name for field in fields(LiveSettings))
"""Names of the settings that may change during a run."""
