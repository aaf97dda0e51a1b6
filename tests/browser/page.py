"""A notebook in JupyterLab as a test sees it."""

from __future__ import annotations

_CURVE = "document.querySelector('.dpo-figure').data.find(trace => trace.meta === meta)"


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
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
        self.idle()

    def idle(self, timeout: float = 120_000) -> None:
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
            f"({{ meta, points }}) => {_CURVE}.y.length > points", arg=arguments, timeout=60_000
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
            "() => document.querySelector('.dpo-workbench').scrollIntoView({ block: 'start' })"
        )
