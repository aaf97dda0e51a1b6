import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Each test here computes on one thread."""
