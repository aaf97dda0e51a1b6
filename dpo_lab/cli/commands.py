"""The command line: which command is meant, and how its errors are told.

A command is imported once it is chosen, so that help and lists of runs need no torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from dpo_lab.cli.output import PROGRAM, SayingHandler, say

ABOUT = "Understand and steer Direct Preference Optimization."


@dataclass(frozen=True)
class Command:
    """Where a command is found, and what it does in a line.

    Attributes:
        place: Module below `dpo_lab.cli`, and name in it.
        about: For the list of commands.
    """

    place: str
    about: str

    def load(self) -> type:
        """Import it."""
        module, name = self.place.split(":")
        return getattr(import_module(f"dpo_lab.cli.{module}"), name)


COMMANDS = {
    "train": Command("train:Train", "train a policy on preference pairs"),
    "sweep": Command("sweep:Sweep", "train every combination of several values of settings"),
    "demo": Command("train:Demo", "train on built-in data and show what changed"),
    "estimate": Command("estimate:Estimate", "memory and time of a training step, beforehand"),
    "losses": Command("losses:Losses", "the losses: formula, paper, options"),
    "logps": Command("logps:Logps", "log-probabilities of the responses under a model"),
    "sample": Command("sample:Sample", "answers of a model, and of a run's policy beside it"),
    "fetch": Command("fetch:Fetch", "bring SmolLM2 onto this machine"),
    "runs list": Command("runs:RunsList", "the runs in a folder"),
    "runs show": Command("runs:RunsShow", "a run: settings, what changed, answers"),
    "runs report": Command("runs:RunsReport", "write a run's report as one HTML file"),
}


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
        _fail(_told(error))
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None


def parse(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for.

    Raises:
        ValueError: In one line, what was wrong and what was meant.
        SystemExit: After help or the version was printed.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        print(_help())
        raise SystemExit(0)
    if arguments == ["--version"]:
        print(PROGRAM, version(PROGRAM))
        raise SystemExit(0)
    words = 2 if arguments[:1] == ["runs"] else 1
    name = " ".join(arguments[:words])
    if words == 2 and arguments[1:2] in (["--help"], ["-h"]):
        print(_help("runs "))
        raise SystemExit(0)
    if name not in COMMANDS:
        raise ValueError(_unknown(name))
    from dpo_lab.cli.arguments import parse_command

    command, rest = COMMANDS[name].load(), arguments[words:]
    if name == "train" and "--resume" in rest:
        from dpo_lab.cli.train import resumed_train

        command = resumed_train(rest)
    return parse_command(command, f"{PROGRAM} {name}", rest)


def _help(beginning: str = "") -> str:
    listed = [
        f"  {name:<14}{command.about}"
        for name, command in COMMANDS.items()
        if name.startswith(beginning)
    ]
    return "\n".join(
        (
            f"usage: {PROGRAM} COMMAND [OPTIONS]",
            "",
            ABOUT,
            "",
            "commands:",
            *listed,
            "",
            f"'{PROGRAM} COMMAND --help' shows a command's options, "
            f"'{PROGRAM} --version' the version.",
        )
    )


def _unknown(name: str) -> str:
    """What is said where no command is named, or none that exists."""
    firsts = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
    expected = firsts
    if name.split(" ")[0] == "runs":
        expected = [command for command in COMMANDS if command.startswith("runs ")]
    rest = f"Expected one of {', '.join(expected)}. See '{PROGRAM} --help'."
    if name in ("", "runs"):
        return f"{name or 'no command'}: what is to be done? {rest}"
    close = get_close_matches(name, [*COMMANDS, *firsts], 1)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{name!r}: no such command. {meant}{rest}"


def _told(error: Exception) -> str:
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


def _fail(message: str) -> None:
    say(f"error: {' '.join(message.split())}")
    raise SystemExit(2)
