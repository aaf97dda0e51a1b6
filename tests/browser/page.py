"""A real JupyterLab on this machine, and a notebook in it as a browser shows it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# The limit that anywidget sets to a module, passed at once; as on a page that is busy meanwhile.
TOO_LATE = """AbortSignal.timeout = () => {
  const controller = new AbortController();
  queueMicrotask(() => controller.abort());
  return controller.signal;
}"""
FAILED = "Failed to initialize model"
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def copy_notebooks(home: Path) -> Path:
    """Copies of the project's notebooks, without runs, in a folder of a home."""
    root = home / "notebooks"
    shutil.copytree(NOTEBOOKS, root, ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints"))
    return root


@contextmanager
def jupyterlab(root: Path) -> Iterator[str]:
    """Address of a JupyterLab on a folder, with settings of its own beside that folder."""
    home = root.parent
    news = home / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "IPYTHONDIR": home / "ipython",
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--ServerApp.allow_root=True", "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    environment = os.environ | {name: str(path) for name, path in folders.items()}
    log = (home / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(f"{address}/api/status", server, home / "log")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _until_it_answers(address: str, server: subprocess.Popen, log: Path) -> None:
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            try:  # a pause that ends at once if the server does
                server.wait(0.2)
            except subprocess.TimeoutExpired:
                continue


_CURVE = "document.querySelector('.dpo-figure .js-plotly-plot')?.data"
_CURVE += ".find(trace => trace.meta === meta)"


class Page:
    """A notebook in JupyterLab, and everything that went wrong on its page."""

    def __init__(self, page, address: str):
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"page: {error}"))
        page.on("request", self._request)

    def _console(self, message) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _request(self, request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:", "ws://127.0.0.1")):
            self.problems.append(f"request to another host: {request.url}")

    def open(self, notebook: str) -> None:
        """Open a notebook in a fresh JupyterLab and wait for its kernel."""
        self.page.goto(f"{self.address}/lab/tree/{notebook}?reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=240_000)
        self.idle()

    def idle(self, timeout: float = 240_000) -> None:
        """Wait until the kernel has nothing to run."""
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'",
            timeout=timeout,
        )

    def run_command(self, command: str) -> None:
        """Run a command of JupyterLab without waiting for its end."""
        self.page.evaluate(
            "name => { window.jupyterapp.commands.execute(name); return true }", command
        )

    def execute(self, code: str) -> str:
        """Run code in the kernel without a cell; what it printed."""
        return self.page.evaluate(
            """async code => {
              const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
              const future = kernel.requestExecute({ code, store_history: false });
              let printed = '';
              future.onIOPub = ({ header, content }) => {
                if (header.msg_type === 'stream') printed += content.text;
              };
              await future.done;
              return printed;
            }""",
            code,
        )

    def save(self) -> None:
        """Save the notebook and wait until that is done."""
        self.run_command("docmanager:save")
        self.page.wait_for_function(
            "() => !window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=120_000
        )

    def status(self) -> str:
        """The kernel's own words on the run."""
        return self.page.locator(".dpo-status").inner_text()

    def wait_for_status(self, words: str, timeout: float = 60_000) -> str:
        """Wait until the kernel says something."""
        self.page.wait_for_function(
            "words => document.querySelector('.dpo-status')?.innerText.includes(words)",
            arg=words,
            timeout=timeout,
        )
        return self.status()

    def points(self, meta: str) -> int:
        """Points of a curve of the live figure, as the browser holds it."""
        return self.page.evaluate(f"meta => {_CURVE}.y.length", meta)

    def wait_for_points(self, meta: str, more_than: int) -> int:
        """Wait until a curve has more points."""
        arguments = {"meta": meta, "points": more_than}
        self.page.wait_for_function(
            f"({{ meta, points }}) => {_CURVE}.y.length > points", arg=arguments, timeout=120_000
        )
        return self.points(meta)

    def use_theme(self, name: str) -> None:
        """Change the theme and bring the workbench into view."""
        self.page.evaluate(
            "theme => { window.jupyterapp.commands.execute('apputils:change-theme', { theme });"
            " return true }",
            name,
        )
        self.page.wait_for_function(
            "name => document.body.dataset.jpThemeName === name", arg=name, timeout=30_000
        )
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.page.evaluate(
            "() => document.querySelector('.dpo-workbench')?.scrollIntoView({ block: 'start' })"
        )


@contextmanager
def browser_page(address: str, width: int = 1280, height: int = 1500) -> Iterator[Page]:
    """A browser with an empty profile on a JupyterLab."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": width, "height": height})
        try:
            yield Page(tab, address)
        finally:
            # Kernels outlive the browser.
            tab.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
            browser.close()
