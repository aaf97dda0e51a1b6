"""Leave with a model: a run's policy as a folder, loaded again and compared before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dpo_lab.analysis.agreement import Agreement
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.exported import ADAPTER, base_of, torch_dtype, write_adapter, write_whole
from dpo_lab.models.model_settings import Bits, Device, DType
from dpo_lab.models.quantised import bits_config
from dpo_lab.training.checkpoints import noted_at_checkpoint
from dpo_lab.training.files import write_json, write_text
from dpo_lab.training.job import Progress
from dpo_lab.training.run_models import checkpoint_of, policy_of
from dpo_lab.training.runs import Run
from dpo_lab.training.whole_folder import check_place, written_whole
from dpo_lab.ui.export.curves_svg import curves_svg
from dpo_lab.ui.export.model_card import CURVES, CardFacts, license_of, model_card
from dpo_lab.ui.export.push import check_base, check_push, push_export
from dpo_lab.ui.export.reload_check import Reloaded, check_export, give_back_memory, judge

CHECK_FILE = "export_check.json"
PROBES = 32
"""Answers to compare on, by default."""


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        folder: Where it lies.
        form: `adapter`, or `merged`, or `whole` for a run that trained all weights.
        base: The base that an adapter needs, by name.
        agreements: How it compares with the policy; empty if it was not compared.
        bytes: What its folder takes.
        address: Where it lies on the hub, if it was uploaded.
    """

    folder: Path
    form: str
    base: str | None
    agreements: tuple[Agreement, ...]
    bytes: int
    address: str | None = None


def export_run(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    merge: bool = False,
    dtype: DType = "float32",
    also: Sequence[Bits] = (),
    prompts: Sequence[str] | None = None,
    probes: int = PROBES,
    seed: int = 0,
    license: str | None = None,
    overwrite: bool = False,
    push: str | None = None,
    public: bool = False,
    device: Device = "auto",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Write the policy of a run's newest checkpoint as a folder that `transformers` loads.

    The folder holds weights, tokenizer with chat template, a model card (`README.md`) and
    `export_check.json`. Before it is kept it is loaded again by plain `transformers`, and compared
    with the policy: KL, differences of the tokens' log-probabilities, greedy answers. It appears
    when it is whole; a kill leaves what was there before.

    Args:
        run: The run, or its folder.
        out: The folder to write; by default in `export/` of the run's folder.
        merge: Whether to merge a LoRA adapter into its base; otherwise the adapter is written.
        dtype: What the weights are written in.
        also: Bits, `8bit` and `4bit`, to load the folder in too, with bitsandbytes, to measure how
            far it is then.
        prompts: Prompts to compare on; by default held-out prompts of the run.
        probes: Sampled answers to compare on, and most prompts; 0 leaves the comparison out.
        seed: Seed of the answers that are compared.
        license: The license that the card names; that of a built-in model is known.
        overwrite: Whether to replace a model that lies in the folder.
        push: A repository of the hub, `owner/name`, to upload it to, with the token that
            `hf auth login` or `HF_TOKEN` set.
        public: Whether a new repository can be read by all; otherwise it is private.
        device: Where to load the models.
        trust_remote_code: Whether code that comes with the model may run.
        progress: Called with the current work, how much is done, and the total.

    Returns:
        Where it lies, and how it compares.

    Raises:
        FileExistsError: If something lies in the folder that must stay.
        FileNotFoundError: If there is no run, or no checkpoint yet.
        OSError: If the disk is too small.
        ValueError: If the tokens' log-probabilities of a float32 export differ from the policy's by
            more than rounding, 1e-4 nats on the mean, the folder does not load, or the hub does not
            take it.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    checkpoint = checkpoint_of(run)
    form, base = "whole", None
    if (checkpoint / ADAPTER).exists():
        form = "merged" if merge else "adapter"
        base = None if merge else base_of(checkpoint)
    _check_comparison(dtype, also, probes, device)
    folder = Path(out) if out is not None else run.path / "export" / f"{form}-{dtype}"
    check_place(folder, overwrite)
    if push is not None:
        check_base(base)
        check_push(push)
    with written_whole(folder, overwrite) as scratch:
        if progress:
            progress(f"writing {folder}", 0, 0)
        if form == "adapter":
            write_adapter(checkpoint, scratch, dtype)
        else:
            # Quantised where the run is compared too: each kind of device has its own last bit.
            place = device if run.config.quantize else "cpu"
            options = {"device": place, "trust_remote_code": trust_remote_code}
            write_whole(policy_of(run, **options), scratch, dtype)
            give_back_memory()
        checked = Reloaded((), "")
        if probes:
            checked = check_export(
                run,
                scratch,
                f"{form}, {dtype}",
                also=also,
                prompts=prompts,
                probes=probes,
                seed=seed,
                device=device,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
            # An adapter of QLoRA belongs to a base in 4 bits, and is loaded as it is first.
            if dtype == "float32" and not (form == "adapter" and run.config.quantize):
                judge(checked.agreements[0])
        facts = CardFacts(
            form=form,
            dtype=dtype,
            base=base,
            step=_step(run),
            agreements=checked.agreements,
            probes=checked.probes,
            license=license_of(run.config.model, license),
        )
        _write_papers(run, scratch, facts, seed)
    address = None
    if push is not None:
        if progress:
            progress(f"uploading to {push}", 0, 0)
        address = push_export(folder, push, public=public)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Export(folder, form, base, checked.agreements, size, address)


def _check_comparison(dtype: DType, also: Sequence[Bits], probes: int, device: Device) -> None:
    """Raise for what cannot be compared, before anything is loaded."""
    torch_dtype(dtype)  # raises for one that is none
    for bits in also:
        bits_config(bits, resolve_device(device))
    if probes < 0:
        raise ValueError(f"probes={probes}: must be at least 0, which compares nothing.")
    if also and not probes:
        raise ValueError(
            f"also={', '.join(also)}: nothing is compared with probes=0. Leave one of them out."
        )


def _step(run: Run) -> int:
    """The step of a run's checkpoint; of one without checksums, that of its last record."""
    noted = noted_at_checkpoint(run.path)
    records = run.records()
    return int(noted["step"]) if noted else records[-1].step if records else 0


def _write_papers(run: Run, folder: Path, facts: CardFacts, seed: int) -> None:
    """The card, its picture, and the check's figures."""
    environment = run.environment
    write_json(
        folder / CHECK_FILE,
        {
            "run": run.path.resolve().name,
            "step": facts.step,
            "form": facts.form,
            "dtype": facts.dtype,
            "reference": environment.get("weights_fingerprint"),
            "probes": facts.probes,
            "seed": seed,
            "kl": "KL(policy || export), nats, exact over the vocabulary at each sampled token",
            "loaded": [one.as_dict() for one in facts.agreements],
            "versions": {n: version(n) for n in ("dpo-lab", "torch", "transformers", "peft")},
        },
    )
    picture = curves_svg(run.records())
    if picture:
        write_text(folder / CURVES, picture)
    write_text(folder / "README.md", model_card(run, facts, bool(picture)))
