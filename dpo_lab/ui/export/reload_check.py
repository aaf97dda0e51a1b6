"""An exported folder loaded again as its users load it, and compared with the run's policy."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from dpo_lab.analysis.agreement import Agreement, Asked, compare_with_copy
from dpo_lab.data.template_settings import use_template
from dpo_lab.data.text_to_ids import Encoder
from dpo_lab.models.exported import load_as_users_do
from dpo_lab.models.loading import LanguageModel, known_ids
from dpo_lab.models.model_settings import Bits, Device
from dpo_lab.models.quantised import quiet_bitsandbytes
from dpo_lab.training.job import Progress, naming
from dpo_lab.training.probes import Probes, probes_of
from dpo_lab.training.run_models import policy_of
from dpo_lab.training.runs import Run

FLOAT32_NATS, FLOAT32_LARGEST = 1e-4, 1e-2
"""Most by which a token's log-probability may differ in a float32 export, on the mean and at all.
Rounding alone gave means of at most 1e-5, and at most 1e-4 for the unlikeliest tokens."""


@dataclass(frozen=True)
class Reloaded:
    """What a check found.

    Attributes:
        agreements: How the folder compares with the policy, loaded as it is and then otherwise.
        probes: On which prompts, in words.
    """

    agreements: tuple[Agreement, ...]
    probes: str


def check_export(
    run: Run,
    folder: Path,
    name: str,
    *,
    prompts: Sequence[str] | None,
    probes: int,
    seed: int,
    also: Sequence[Bits],
    device: Device,
    trust_remote_code: bool,
    progress: Progress | None,
) -> Reloaded:
    """Compare an exported folder with the policy of its run.

    Args:
        run: The run.
        folder: The exported folder.
        name: What it is, in words.
        prompts: Prompts to compare on; by default held-out prompts of the run.
        probes: How many answers to sample, and most prompts.
        seed: Seed of the policy's answers.
        also: Bits to load the folder in too.
        device: Where to load both.
        trust_remote_code: Whether code that comes with the model may run.
        progress: Called with the current work, how much is done, and the total.

    Raises:
        ValueError: If its tokenizer gives other ids than that of the run, or it cannot be quantised
            here.
    """
    policy = policy_of(run, device=device, trust_remote_code=trust_remote_code, merge=False)
    found = probes_of(run, policy, probes, prompts)
    _check_tokenizer(run, policy, folder, found, trust_remote_code)
    answering = naming(progress, "answers of the policy")
    asked = Asked.of(policy, found.prompts, probes, run.config.max_new_tokens, seed, answering)
    agreements = []
    for bits in (None, *also):
        loaded = f"{name}, loaded in {bits.replace('bit', ' bits')}" if bits else name
        copy = load_as_users_do(
            folder, policy.device, trust_remote_code=trust_remote_code, quantize=bits
        )
        if bits is None and "bfloat16" in name and copy.dtype == torch.float32:
            loaded += ", computed in float32"
        comparing = naming(progress, f"comparing with {loaded}")
        with quiet_bitsandbytes():
            agreements.append(compare_with_copy(policy, copy, asked, loaded, comparing))
        del copy
        give_back_memory()
    return Reloaded(tuple(agreements), f"{len(found.prompts)} {found.what}")


def judge(agreement: Agreement) -> None:
    """Raise if a float32 export is not the policy.

    Raises:
        ValueError: If a token's log-probability differs by more than rounding.
    """
    mean, largest = agreement.mean_difference, agreement.largest
    if not (mean <= FLOAT32_NATS and largest <= FLOAT32_LARGEST):
        raise ValueError(
            f"{agreement.loaded}: loaded again, it is not the policy that was trained: a token's "
            f"log-probability differs by {mean:.2g} nats on the mean and by up to {largest:.2g}, "
            f"where rounding gives less than {FLOAT32_NATS:g} and {FLOAT32_LARGEST:g}. Nothing "
            "was kept; check the base model and the versions of transformers and peft."
        )


def _check_tokenizer(
    run: Run, policy: LanguageModel, folder: Path, probes: Probes, trust_remote_code: bool
) -> None:
    """Raise unless the folder's tokenizer and template write the prompts as in training."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    use_template(tokenizer, None, run.config.template_date, run.config.thinking)
    theirs = Encoder(tokenizer, known_ids(policy.base)).prompts(probes.texts)
    differ = sum(a != b for a, b in zip(probes.prompts, theirs, strict=True))
    if differ:
        raise ValueError(
            f"{folder.name}: its tokenizer writes {differ} of {len(theirs)} prompts with other ids "
            "than in training. Nothing was kept; check the versions of transformers and tokenizers."
        )


def give_back_memory() -> None:
    """Free what deleted models held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
