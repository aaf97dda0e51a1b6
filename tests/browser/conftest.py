"""A real JupyterLab on this machine, a real browser, and what a test needs of the two."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from page import Page

CHROMIUM = shutil.which("chromium")
INSTALL = "apt-get install --no-install-recommends chromium fonts-dejavu-core"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if "browser" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=f"no Chromium; {INSTALL}"))


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks of the JupyterLab lie, copies of the project's."""
    root = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(NOTEBOOKS, root, ignore=shutil.ignore_patterns("runs"))
    return root


@pytest.fixture(scope="session")
def lab(lab_folder: Path) -> Iterator[str]:
    """Address of a JupyterLab with settings of its own."""
    root, home = lab_folder, lab_folder.parent
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
        "DPO_LAB_CACHE": home / "cache",
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


@pytest.fixture
def page(lab: str, request) -> Iterator[Page]:
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1280, "height": 1500})
        opened = Page(tab, lab)
        try:
            yield opened
        finally:
            # Kernels outlive the browser.
            tab.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
            browser.close()


@pytest.fixture
def pictures(request):
    """Takes pictures of a page in both themes, into the folder of DPO_LAB_PICTURES if it is set."""
    folder = os.environ.get("DPO_LAB_PICTURES")

    def take(page: Page, name: str) -> None:
        for theme in ("Light", "Dark", "Light") if folder else ():
            page.use_theme(f"JupyterLab {theme}")
            page.page.screenshot(path=Path(folder) / f"{name}_{theme.lower()}.png")

    return take
