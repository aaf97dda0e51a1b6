"""The command that says what a step will take before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import tyro
from rich.table import Table

from dpo_lab.cli.output import new_console
from dpo_lab.training.config import TrainConfig


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a training step, from the configuration alone: no weight is loaded."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """What would be trained, on what, and how."""
    devices: int = 1
    """How many devices share the work."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp holds everything on each device; fsdp shares weights, gradients and optimiser."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One JSON object instead of a table."""

    def __call__(self) -> None:
        """Print it."""
        from dpo_lab.models.loading import resolve_device
        from dpo_lab.training.estimate import best_product, estimate

        cost = estimate(self.config, self.devices, self.strategy)
        device = resolve_device(self.config.device)
        speed = best_product(device)
        seconds = cost.seconds(speed)
        if self.json:
            extra = {"total_gb": cost.total_gb, "seconds": seconds, "product_flops": speed}
            print(json.dumps(asdict(cost) | extra))
            return
        console = new_console()
        table = Table("memory of a device", "GB", title="One optimiser step, float32")
        for name, gigabytes in cost.memory.items():
            if gigabytes:
                table.add_row(name, f"{gigabytes:.2f}")
        table.add_section()
        table.add_row("in all, at its peak", f"{cost.total_gb:.2f}")
        console.print(table)
        console.print(
            f"{cost.pairs} pairs: {cost.tokens:.0f} different tokens, {cost.scored:.0f} of them "
            f"scored, in {cost.micro_batches:.1f} micro-batches.",
            f"About {seconds:.2g} s a step ({cost.pairs * self.devices / seconds:.2g} pairs/s): "
            f"this {device.type} does {speed / 1e9:.0f} GFLOP/s at best.",
            sep="\n",
            highlight=False,
        )
