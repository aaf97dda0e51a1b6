"""Rows from the Hugging Face hub, with its many kinds of failure reported in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def hub_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of a split of a data set on the hub, or in the cache of `datasets`.

    Args:
        name: Its id, `owner/name`.
        split: The split.

    Raises:
        FileNotFoundError: If there is no such data set, or the hub cannot be reached.
        ValueError: If it cannot be read, or has no such split.
    """
    from datasets import load_dataset

    return iter(_ask(name, lambda: load_dataset(name, split=split)))


def hub_splits(name: str) -> list[str]:
    """Names of the splits of such a data set; errors as of `hub_rows`."""
    from datasets import get_dataset_split_names

    return _ask(name, lambda: get_dataset_split_names(name))


def _ask(name: str, call: Callable[[], T]) -> T:
    from datasets import config
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    if not config.HF_HUB_OFFLINE:
        _probe(name)
    try:
        return call()
    except DatasetNotFoundError as error:
        raise _not_found(name, error) from None
    except ConnectionError as error:
        raise _unreachable(name, error) from None
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name}: this data set of the hub cannot be read: {error}. "
            "Name another split, or download its files and give one of them."
        ) from None


def _probe(name: str) -> None:
    """Ask for the data set once: `datasets` would try for half a minute before it gave up."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=10)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise _not_found(name, error) from None
    except Exception as error:  # each version of the client has its own transport errors
        raise _unreachable(name, error) from None


def _not_found(name: str, error: Exception) -> FileNotFoundError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return FileNotFoundError(
        f"{name}: no such file or folder here, and no data set of the hub that is open to you "
        f"({reason}). Built in are reviews and places; otherwise give a path, or a hub id "
        "(owner/name) after `hf auth login` where it is private or gated."
    )


def _unreachable(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name}: no such file or folder here, and the hub cannot be reached "
        f"({type(error).__name__}). Give a local file, or try again with a connection; "
        "HF_HUB_OFFLINE=1 uses what `datasets` has cached."
    )
