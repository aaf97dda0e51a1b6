"""The command line: which command is meant, and what its errors say.

A command is imported once it is chosen, so that help and lists of runs need no torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pkgutil import resolve_name

from dpo_lab.cli.output import PROGRAM, SayingHandler, say

COMMANDS = {
    "check": ("check:Check", "look at preference pairs before any training"),
    "train": ("train:Train", "train a policy on preference pairs"),
    "sweep": ("sweep:Sweep", "train every combination of several values of settings"),
    "follow": ("follow:Follow", "watch and steer a run that another process trains"),
    "demo": ("train:Demo", "train on built-in data and show what changed"),
    "reward-model train": ("reward_model:RewardModelTrain", "train a reward model on pairs"),
    "estimate": ("estimate:Estimate", "memory and time of a training step, beforehand"),
    "losses": ("losses:Losses", "the losses: formula, paper, options"),
    "logps": ("logps:Logps", "log-probabilities of the responses under a model"),
    "sample": ("sample:Sample", "answers of a model, and of a run's policy beside it"),
    "export": ("export:ExportRun", "a run's policy as a folder or on the hub, checked"),
    "compare": ("compare:Compare", "is a run's policy better? answers, judges, forgetting"),
    "fetch": ("fetch:Fetch", "bring SmolLM2 onto this machine"),
    "runs list": ("runs:RunsList", "the runs in a folder"),
    "runs show": ("runs:RunsShow", "a run: settings, what changed, answers"),
    "runs report": ("runs:RunsReport", "write a run's report as one HTML file"),
}
"""Where each command is found below `dpo_lab.cli`, and what it does, for the list of commands."""
HELP = """usage: dpo-lab COMMAND [OPTIONS]

Understand and steer Direct Preference Optimization.

commands:
{}

'dpo-lab COMMAND --help' shows a command's options, 'dpo-lab --version' the version."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that a user can cause is one line and exit code 2."""
    # Read when torch is loaded: threads that spin while they wait starve each other on taken cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The libraries' own bars would bury the one line that says what is wrong.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not logging.getLogger("dpo_lab").handlers:
        logging.getLogger("dpo_lab").addHandler(SayingHandler(logging.WARNING))
    try:
        parse(sys.argv[1:] if arguments is None else list(arguments))()
    except BrokenPipeError:
        # Whoever read the output has enough of it; nothing is left to be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, RuntimeError, OverflowError, MemoryError) as error:
        if os.environ.get("DPO_LAB_TRACEBACK"):
            raise
        code = getattr(error, "exit_code", 2)  # that of a process that another one has let down
        if code == 2 or "DPO_LAB_LAUNCHED" not in os.environ:
            say(f"error: {' '.join(_in_words(error).split())}")
        _abandon(code)
        raise SystemExit(code) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None


def _abandon(code: int) -> None:
    """End at once if other processes share the run: a thread of torch may abort otherwise."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def parse(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for.

    Raises:
        ValueError: If there is no such command.
        SystemExit: After help, the version or what is wrong with an option was printed.
    """
    words = 2 if arguments[:1] in (["runs"], ["reward-model"]) else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    before, _, asked = name.rpartition(" ")
    if asked in ("--help", "-h"):
        listed = (f"  {each:<20}{about}" for each, (_, about) in COMMANDS.items())
        print(HELP.format("\n".join(line for line in listed if line.startswith(f"  {before}"))))
        raise SystemExit(0)
    if name == "--version":
        print(PROGRAM, version(PROGRAM))
        raise SystemExit(0)
    if name not in COMMANDS:
        said = "which command?"
        if name not in ("", "runs", "reward-model"):
            said = f"{name!r}: no such command."
            for close in get_close_matches(name, [*COMMANDS, "runs", "reward-model"], 1):
                said += f" Did you mean {close!r}?"
        raise ValueError(f"{said} Expected one of {', '.join(COMMANDS)}. See '{PROGRAM} --help'.")
    from dpo_lab.cli.arguments import parse_command

    place, _ = COMMANDS[name]
    return parse_command(resolve_name(f"dpo_lab.cli.{place}"), f"{PROGRAM} {name}", rest)


def _in_words(error: Exception) -> str:
    """An error in words, with what to do where the library that raised it says only what it is."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return (
            f"out of memory ({text}). Take fewer pairs or tokens at a time (--batch-pairs, "
            "--micro-batch-tokens, --max-length) or a smaller adapter (--lora-rank); 'dpo-lab "
            "estimate' says beforehand what a step takes."
        )
    return text
