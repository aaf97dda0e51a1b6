"""Memory of each process of one run, beside what `dpo-lab estimate` says, and pairs a second.

    python benchmarks/processes.py [--json result.json]

Each row is a launch of its own: one process, several that divide the pairs, several that divide
the weights as well; full fine-tuning and LoRA. Compare memory by row, and speeds only as ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

PLANS = [(1, "ddp"), (2, "ddp"), (2, "fsdp")]


@dataclass(frozen=True)
class Memory:
    """Measured and estimated peak memory of each process."""

    model: str = "smollm2"
    """micro, smollm2, a folder or a hub id."""
    data: str = "places"
    """Preference pairs, as for dpo-lab train."""
    lora_rank: int = 8
    """Rank of the adapter in the rows with LoRA."""
    steps: int = 4
    """Optimiser steps; speed is that of the last."""
    batch_pairs: int = 8
    """Pairs in a step."""
    json: Path | None = None
    """Where to write the results."""

    def __call__(self) -> None:
        """Measure, print and write."""
        from dpo_lab.training.config import TrainConfig
        from dpo_lab.training.estimate import estimate

        rows = []
        print(
            f"{'':8}{'processes':>10}{'measured GB':>13}{'estimated':>11}{'ratio':>7}{'pairs/s':>9}"
        )
        for rank in (None, self.lora_rank):
            config = TrainConfig(
                model=self.model,
                data=self.data,
                steps=self.steps,
                batch_pairs=self.batch_pairs,
                limit=self.steps * self.batch_pairs,
                eval_every=0,
                eval_pairs=0,
                sample_prompts=0,
                lora_rank=rank,
                device="cpu",
            )
            for count, strategy in PLANS:
                expected = estimate(config, count, strategy).total_gb
                peak, speed = measured(config.as_dict(), count, strategy)
                what = {"trains": "LoRA" if rank else "full", "processes": count}
                rows.append(
                    what
                    | {"strategy": strategy, "measured_gb": peak, "estimated_gb": expected}
                    | {"pairs_per_second": speed}
                )
                print(
                    f"{what['trains']:8}{f'{count} {strategy}':>10}{peak:13.2f}{expected:11.2f}"
                    f"{expected / peak:7.2f}{speed:9.2f}"
                )
        if self.json:
            self.json.write_text(
                json.dumps({**vars(replace(self, json=None)), "rows": rows}, indent=1)
            )


def measured(settings: dict, count: int, strategy: str) -> tuple[float, float]:
    """Peak memory of the largest process, GB, and pairs a second."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    threads = max(1, (os.cpu_count() or 1) // count)
    done = subprocess.run(
        [sys.executable, *launcher, __file__, json.dumps(settings), strategy],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak, speed = json.loads(done.stdout.splitlines()[-1])
    return peak, speed


def train_here(settings: dict, strategy: str) -> None:
    """Train in one of the processes; the first prints peak memory and speed."""
    from dpo_lab.models.processes import join_processes, leave_processes
    from dpo_lab.training.config import TrainConfig
    from dpo_lab.training.loop import train
    from dpo_lab.training.setup import prepare

    processes = join_processes()
    *_, last = train(prepare(TrainConfig(**settings), strategy=strategy))
    found = processes.gather(last.timing)
    if processes.first:
        peak = max(each["peak_memory_gb"] for each in found)
        print(json.dumps([peak, found[0]["pairs_per_second"]]))
    leave_processes()


if __name__ == "__main__":
    if "RANK" in os.environ:
        train_here(json.loads(sys.argv[1]), sys.argv[2])
    else:
        tyro.cli(Memory)()
