import os

# Before any test imports them: no test may reach for the hub, or draw progress bars.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("DPO_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def one_thread():
    """Tiny products are faster, and the same everywhere, on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def micro():
    """The micro model on the CPU, one for the tests of a file."""
    import torch

    from dpo_lab.models.loading import load_model

    torch.set_num_threads(1)
    return load_model("micro", device="cpu")


@pytest.fixture(scope="module")
def reviews():
    """The first hundred pairs of the built-in reviews."""
    from dpo_lab.data.preferences import load_preferences

    return load_preferences("reviews", limit=100)
