"""The command line: which command is meant, and how its errors are told."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from dpo_lab.cli.arguments import parse_command
from dpo_lab.cli.estimate import Estimate
from dpo_lab.cli.losses import Losses
from dpo_lab.cli.models import Fetch, Logps, Sample
from dpo_lab.cli.output import PROGRAM, say
from dpo_lab.cli.runs import Runs
from dpo_lab.cli.sweep import Sweep
from dpo_lab.cli.train import Demo, Train, resumed_train

COMMANDS = {
    "train": Train,
    "sweep": Sweep,
    "demo": Demo,
    "estimate": Estimate,
    "losses": Losses,
    "logps": Logps,
    "sample": Sample,
    "fetch": Fetch,
    "runs": Runs,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that a user can cause is one line and exit code 2."""
    # The libraries' own warnings and bars would bury the one line that says what is wrong.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        parse(sys.argv[1:] if arguments is None else list(arguments))()
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("DPO_LAB_TRACEBACK"):
            raise
        _fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None


def parse(arguments: list[str]):
    """The command that the arguments ask for."""
    commands = dict(COMMANDS)
    if arguments[:1] == ["train"] and "--resume" in arguments:
        commands["train"] = resumed_train(arguments)
    about = "Understand and steer Direct Preference Optimization."
    return parse_command(commands, PROGRAM, about, arguments)


def _fail(message: str) -> None:
    say(f"error: {' '.join(message.split())}")
    raise SystemExit(2)
