"""Widgets that answer while a cell runs."""

from __future__ import annotations

import sys


class _Unset:
    """An attribute that is never there, whatever is written to it."""

    def __get__(self, comm: object, owner: type) -> None:
        raise AttributeError

    def __set__(self, comm: object, value: object) -> None:
        pass


def keep_to_subshells() -> None:
    """In a kernel, let a widget's messages go to the thread that they are addressed to.

    JupyterLab addresses them to a subshell, so that sliders and buttons work while a cell runs.
    ipykernel 7.4 sends them to the thread that wrote to the widget last instead: the cell's own,
    as a rule, which reads them when the cell has ended. The answer to a request, which carries the
    request's id, still finds whoever asked. Other versions, and a process that is no kernel, are
    left as they are.
    """
    if "ipykernel.comm" in sys.modules:
        from ipykernel.comm.comm import BaseComm

        BaseComm._reply_subshell_id = _Unset()
