"""What a person sees in a real terminal: a pty of 100 by 30, read as a terminal reads it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

pytestmark = pytest.mark.slow

SIZE = (30, 100)
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def in_a_terminal(*arguments: str, cwd, code: int = 0) -> str:
    """All that the command leaves on the terminal, scrolled lines too; it ends with that code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "dpo_lab", *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:
        pass  # Linux's end of file
    os.close(ours)
    assert process.wait() == code, written.decode()
    return screen(written.decode())


def screen(text: str) -> str:
    """The lines that a terminal shows for a text with control sequences.

    Knows what rich writes: carriage return, line feed, cursor up (A) and erase line (K).
    """
    lines, row, column, at = [""], 0, 0, 0
    while at < len(text):
        sequence = SEQUENCE.match(text, at)
        if sequence:
            at = sequence.end()
            count, kind = sequence.groups()
            if kind == "A":
                row = max(0, row - int(count or 1))
            elif kind == "K":
                lines[row] = "" if count == "2" else lines[row][:column]
            continue
        sign, at = text[at], at + 1
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + sign + lines[row][column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines)


def test_the_reader_knows_what_a_terminal_does() -> None:
    assert screen("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kthree\r\n\x1b[1mfour\x1b[0m") == "three\nfour"


def test_the_live_tables_header_is_left_once(tmp_path) -> None:
    arguments = ("demo", "--steps", "30", "--out", "run")
    left = in_a_terminal(*arguments, cwd=tmp_path)
    assert len(re.findall(r"step +loss +held-out loss", left)) == 1, left
    rows = re.findall(r"^ *(\d+) +\d\.\d{4} +\d\.\d{4}", left, re.M)
    assert rows == ["25", "30"], left
    assert "30/30" in left and "Score" in left


def test_a_slip_in_an_option_is_readable(tmp_path) -> None:
    """The colours of the message are sent, what was typed is written out."""
    left = in_a_terminal("fetch", "--modle", "\x1b]0;mine\x07", cwd=tmp_path, code=2)
    assert r"Unrecognized options: --modle, \x1b]0;mine\x07 " in left
    assert "run dpo-lab fetch --help " in left and "\x1b" not in left
    assert left.count(r"\x1b") == 1, left
