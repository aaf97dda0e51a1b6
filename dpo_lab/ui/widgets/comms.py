"""Makes widgets respond while a cell runs, through the kernel's subshells."""

from __future__ import annotations

import sys


class _Unset:
    """An attribute that always seems unset; assignments are ignored."""

    def __get__(self, comm: object, owner: type) -> None:
        raise AttributeError

    def __set__(self, comm: object, value: object) -> None:
        pass


def keep_to_subshells() -> None:
    """In a kernel, deliver a widget's messages to the thread that they are addressed to.

    JupyterLab addresses them to a subshell, so that sliders and buttons work while a cell runs.
    ipykernel 7.4 instead sends them to the thread that last wrote to the widget: usually the
    cell's, which reads them only when the cell has ended. Replies to requests still arrive, since
    they carry the request's id. Other versions, and processes that are not kernels, are unaffected.
    """
    if "ipykernel.comm" in sys.modules:
        from ipykernel.comm.comm import BaseComm

        BaseComm._reply_subshell_id = _Unset()
