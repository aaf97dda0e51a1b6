"""A small OpenAI-compatible server on this machine, which answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]
"""Status, and the reply's text, or any JSON instead of a chat completion."""


class ChatServer:
    """What was asked, and the address.

    Args:
        answer: From the text of the request to `(status, text)`.
    """

    def __init__(self, answer: Callable[[str], Reply]):
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(body | {"path": self.path})
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, reply = answer(body["messages"][-1]["content"])
                message = {"role": "assistant", "content": reply}
                data = {"choices": [{"message": message}]} if isinstance(reply, str) else reply
                sent = json.dumps(data).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "7")
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *rest) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def chat_server(answer: Callable[[str], Reply]) -> Iterator[ChatServer]:
    """Runs a server in another thread."""
    chat = ChatServer(answer)
    thread = threading.Thread(target=chat.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        chat.server.shutdown()
        chat.server.server_close()
        thread.join()
