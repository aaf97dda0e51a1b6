"""The command that trains a reward model: `reward-model train`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from dpo_lab.cli.arguments import SAID
from dpo_lab.cli.output import new_console
from dpo_lab.cli.settings import Boxes, given, options

USED = {
    "model", "data", "split", "held_out", "max_length", "max_prompt_length",
    "prompt_format", "chat_template", "score_turns", "thinking", "template_date", "on_bad_rows",
    "columns", "limit", "max_gz_gb", "seed", "device", "revision", "trust_remote_code",
}  # fmt: skip
"""The settings of a run that a reward model takes."""
Some = Annotated[
    Boxes, tyro.conf.arg(name="", constructor_factory=partial(options, names=frozenset(USED)))
]


@dataclass(frozen=True)
class RewardModelTrain:
    """Train a reward model on preference pairs, for train --method rloo --reward FOLDER.

    Examples:
      dpo-lab reward-model train --out runs/rm
      dpo-lab reward-model train --model smollm2 --data pairs.jsonl --epochs 1 --out runs/rm
      dpo-lab train --method rloo --reward runs/rm
    """

    settings: Some
    epochs: Annotated[float | None, SAID] = None
    """Passes over the pairs; 10 by default for micro, 1 for others."""
    batch_pairs: Annotated[int | None, SAID] = None
    """Pairs in a step; 32 by default."""
    learning_rate: Annotated[float | None, SAID] = None
    """Peak learning rate of the trunk; 5e-4 by default for micro, 1e-5 for others."""
    out: Annotated[Path | None, SAID] = None
    """Folder of the reward model; by default reward-model/ beside the runs."""

    def __call__(self) -> None:
        """Train it, and say how well it ranks held-out pairs."""
        from dpo_lab.cli.terminal import TerminalDisplay
        from dpo_lab.models.builtin import builtin_model
        from dpo_lab.training.checks import check_range
        from dpo_lab.training.config import TrainConfig
        from dpo_lab.training.files import check_writable
        from dpo_lab.training.reward import reward_model_for
        from dpo_lab.training.run_folders import runs_folder

        asked = given(self.settings)
        out = self.out or runs_folder() / "reward-model"
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out}: exists already. Give another folder with --out.")
        check_writable(out)
        console, config = new_console(), TrainConfig(**asked)
        display = TerminalDisplay(console)
        builtin_model(config.model, report=lambda words: display.on_wait(words, 0, 0))
        names = "epochs", "batch_pairs", "learning_rate"
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name, value in changes.items():
            check_range(name, value, 0, True)
        reward_model, accuracy = reward_model_for(config, progress=display.on_wait, **changes)
        display.close()
        reward_model.save(out)
        if accuracy:
            console.print(
                f"Ranks {accuracy.mean:.1%} of {accuracy.n} held-out pairs as they are labelled "
                f"(95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}).",
                highlight=False,
            )
        console.print(f"Reward model  {out}", markup=False, soft_wrap=True)
        console.print(f"Use it with   dpo-lab train --method rloo --reward {out}", markup=False)
