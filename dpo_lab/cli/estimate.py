"""The command that says what a step will take before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.table import Table

from dpo_lab.cli.arguments import Flag
from dpo_lab.cli.output import new_console
from dpo_lab.cli.settings import Settings, given
from dpo_lab.models.model_settings import Strategy
from dpo_lab.training.config import TrainConfig


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a training step, from the configuration alone: no weight is loaded."""

    settings: Settings
    devices: int = 1
    """Processes that divide the step, each on a device of its own."""
    strategy: Strategy = "ddp"
    """What they divide: with ddp the pairs of a step, with fsdp the weights as well."""
    json: Flag = False
    """One JSON object instead of a table."""

    def __call__(self) -> None:
        """Print it."""
        from dpo_lab.models.devices import resolve_device
        from dpo_lab.training.estimate import best_product, estimate

        config = TrainConfig(**given(self.settings))
        if self.devices < 1:
            raise ValueError(f"--devices {self.devices}: must be at least 1.")
        if self.devices == 1 and self.strategy == "fsdp":
            raise ValueError("--strategy fsdp: divides weights among --devices; give at least 2.")
        cost = estimate(config, self.devices, self.strategy)
        device = resolve_device(config.device)
        speed = best_product(device)
        seconds = cost.seconds(speed)
        if self.json:
            extra = {"total_gb": cost.total_gb, "seconds": seconds, "product_flops": speed}
            print(json.dumps(asdict(cost) | extra))
            return
        title = "One optimiser step, float32"
        if self.devices > 1:
            title += f", on each of {self.devices} devices ({self.strategy})"
        table = Table("memory", "GB", title=title)
        for name, gigabytes in cost.memory.items():
            if gigabytes:
                table.add_row(name, f"{gigabytes:.2f}")
        table.add_section()
        table.add_row("in all, at its peak", f"{cost.total_gb:.2f}")
        new_console().print(
            table,
            f"{cost.pairs} pairs: {cost.tokens:.0f} different tokens, {cost.scored:.0f} of them "
            f"scored, in {cost.micro_batches:.1f} micro-batches.",
            f"About {seconds:.2g} s a step ({cost.pairs / seconds:.2g} pairs/s): "
            f"this {device.type} does {speed / 1e9:.0f} GFLOP/s at best."
            + (" What the devices exchange is not counted." if self.devices > 1 else ""),
            sep="\n",
            highlight=False,
        )
