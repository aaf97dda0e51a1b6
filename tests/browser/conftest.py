from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from page import CHROMIUM, Page, browser_page, copy_notebooks, jupyterlab

INSTALL = "apt-get install --no-install-recommends chromium fonts-dejavu-core"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if "browser" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=f"no Chromium; {INSTALL}"))


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_notebooks(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def lab(lab_folder: Path) -> Iterator[str]:
    with jupyterlab(lab_folder) as address:
        yield address


@pytest.fixture
def page(lab: str) -> Iterator[Page]:
    with browser_page(lab) as opened:
        yield opened


@pytest.fixture
def pictures():
    """Takes pictures of a page in both themes, into the folder of DPO_LAB_PICTURES if it is set."""
    folder = os.environ.get("DPO_LAB_PICTURES")

    def take(page: Page, name: str) -> None:
        for theme in ("Light", "Dark", "Light") if folder else ():
            page.use_theme(f"JupyterLab {theme}")
            page.page.screenshot(path=Path(folder) / f"{name}_{theme.lower()}.png")

    return take
