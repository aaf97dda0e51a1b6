"""The command line as a person types at it."""

from __future__ import annotations

from dpo_lab.cli.commands import main


def run_cli(capsys, *words) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `dpo-lab` with these words."""
    try:
        main(list(map(str, words)))
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err
