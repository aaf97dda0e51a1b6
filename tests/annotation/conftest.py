import pytest

from dpo_lab.annotation.session import Session


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Each test here computes on one thread."""


@pytest.fixture
def session(tmp_path):
    """One that nothing was clicked in yet."""
    made = Session(tmp_path / "mine")
    yield made
    made.close()
