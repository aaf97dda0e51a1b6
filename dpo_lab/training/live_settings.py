"""The settings that may change while a run goes on: beta and the peak learning rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig
    from dpo_lab.training.history import History


@dataclass(frozen=True)
class LiveSettings:
    """Their values at one moment of a run.

    Attributes:
        beta: Larger keeps the policy closer to the reference.
        learning_rate: The schedule's peak; none where the model's default was left open.
    """

    beta: float
    learning_rate: float | None

    @classmethod
    def of(cls, config: TrainConfig) -> LiveSettings:
        """As a run with this configuration begins."""
        return cls(*(getattr(config, name) for name in LIVE))

    @classmethod
    def after(cls, config: TrainConfig, records: History) -> LiveSettings:
        """As the records of a run leave them."""
        changed = records.last("change/learning_rate")
        return cls(
            records[-1].beta if records else config.beta,
            config.learning_rate if changed is None else changed,
        )

    def as_dict(self) -> dict[str, float | None]:
        """Their values by name."""
        return asdict(self)

    def changed_from(self, before: LiveSettings) -> dict[str, float | None]:
        """Those that have other values than before, by name."""
        old = before.as_dict()
        return {name: value for name, value in self.as_dict().items() if value != old[name]}


LIVE = tuple(field.name for field in fields(LiveSettings))
"""Their names."""
