"""Every loss beside TRL's: the same pairs, the same moved policy, loss and gradient compared.

TRL's own trainer collates the batch, runs its model and calls its `_compute_loss`; the lab goes its
own way from the same token ids. KTO is compared with TRL's trainer of single responses, CPO and
ORPO by the loss functions of TRL's trainers for them, on the same log-probabilities.

Usage: python benchmarks/losses.py [--json FILE]   (needs `pip install 'dpo-lab[bench]'`)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl_side import SameTokens, rows_in_order, trl_config

from dpo_lab.models.builtin import builtin_model
from dpo_lab.objective.pair_logps import F_DIVERGENCES
from dpo_lab.objective.registry import LOSSES, SUMS
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.learner import Learner
from dpo_lab.training.setup import prepare
from dpo_lab.training.unpaired_baseline import mismatched

CONFIG = TrainConfig(beta=0.3, steps=1, batch_pairs=16, limit=200, eval_every=0, eval_pairs=0)
MOVED = 0.05
"""Standard deviation of the noise on every weight: margins of about a nat."""
MOVED_KTO = -0.004
"""The same for KTO: so small, and in such a direction, that z0 is above 0."""
# For losses of means over tokens, which are small.
BETAS = {"sigmoid_norm": 3.0, "ipo_norm": 3.0, "simpo": 2.5}


@dataclass(frozen=True)
class Agreement:
    """How far the lab is from TRL on one batch.

    Attributes:
        loss: Largest difference of the mean loss (of a pair's, for CPO and ORPO), relative.
        gradient: Norm of the difference of the two gradients over the norm of TRL's; none where
            only values are compared.
    """

    loss: float
    gradient: float | None = None


def main() -> None:
    """Compare all and print the README's table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the differences")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = compare_all()
    for name, agreement in found.items():
        gradient = "" if agreement.gradient is None else f"  gradient {agreement.gradient:.1e}"
        print(f"{name:50} loss {agreement.loss:.1e}{gradient}")
    print(table(found))
    if arguments.json:
        values = {name: vars(agreement) for name, agreement in found.items()}
        arguments.json.write_text(json.dumps(values, indent=2) + "\n")


def compare_all() -> dict[str, Agreement]:
    """Every loss that TRL has, every divergence, LD-DPO, WPO and sums, by name."""
    cases = {
        name: {"loss": name, "beta": BETAS.get(name, 0.3)}
        for name, loss in LOSSES.items()
        if loss.trl and "Trainer" not in loss.trl
    }
    smooth = ("robust", "exo_pair", "aot", "aot_unpaired")
    cases |= {f"{n}, label_smoothing 0.1": {"loss": n, "label_smoothing": 0.1} for n in smooth}
    for name in F_DIVERGENCES[1:]:
        for loss in ("sigmoid", "hinge", "sigmoid + 0.2 sft"):
            cases[f"{loss}, {name}"] = {"loss": loss, "f_divergence_type": name}
    cases["sigmoid, ld_alpha 0.3"] = {"loss": "sigmoid", "ld_alpha": 0.3}
    cases["sigmoid, use_weighting"] = {"loss": "sigmoid", "use_weighting": True}
    cases |= {name: {"loss": name} for name in SUMS}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(Path(scratch))
        found = {name: trainer.compare(replace(CONFIG, **some)) for name, some in cases.items()}
        found["kto"] = compare_kto(Path(scratch) / "kto")
    return found | compare_reference_free()


class Trainer:
    """TRL's trainer on the lab's pairs, its policy moved as the lab's is."""

    def __init__(self, scratch: Path):
        job = prepare(CONFIG)
        path, _ = builtin_model(CONFIG.model)
        self.trl = SameTokens(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            # Only with this setting does TRL compute what WPO needs.
            args=trl_config(job, scratch, CONFIG.batch_pairs, {"use_weighting": True}),
            train_dataset=Dataset.from_list(rows_in_order(job)),
            processing_class=AutoTokenizer.from_pretrained(path),
        )
        move(self.trl.model)
        self.inputs = next(iter(self.trl.get_train_dataloader()))

    def compare(self, config: TrainConfig) -> Agreement:
        """One batch of both."""
        self._set(config)
        self.trl.model.zero_grad()
        theirs = self.trl._compute_loss(self.trl.model, dict(self.inputs), False)
        theirs.backward()
        job = prepare(replace(config, micro_batch_tokens=30))
        move(job.policy.model)
        learner = Learner(job)
        losses = learner.accumulate(learner.order.batch(0)).losses
        difference, norm = gradient_difference(job.policy.model, self.trl.model)
        ours, theirs = losses.mean().item(), theirs.item()
        return Agreement(abs(ours - theirs) / abs(theirs), difference / max(norm, 1e-12))

    def _set(self, config: TrainConfig) -> None:
        terms = [part.split() for part in config.loss.split(" + ")]
        trl, options = self.trl, config.loss_function.options | config.loss_options
        trl.loss_types = [LOSSES[term[-1]].trl for term in terms]
        trl.loss_weights = [float(term[0]) if len(term) > 1 else 1.0 for term in terms]
        trl.beta, trl.ld_alpha, trl.use_weighting = (
            config.beta,
            config.ld_alpha,
            config.use_weighting,
        )
        trl.label_smoothing = options.get("label_smoothing", 0.0)
        trl.f_divergence_type = options.get("f_divergence_type", "reverse_kl")
        trl.f_alpha_divergence_coef = options.get("f_alpha_divergence_coef", 0.5)


class SameSingles(KTOTrainer):
    """TRL's trainer of single responses, which takes token ids as they are."""

    _prepare_dataset = SameTokens._prepare_dataset
    _get_train_sampler = SameTokens._get_train_sampler


def compare_kto(scratch: Path) -> Agreement:
    """KTO on one batch of single responses, with the same prompts and others' responses for z0."""
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    given = CONFIG.as_dict() | {"loss": "kto", "micro_batch_tokens": 30, **weights}
    config = TrainConfig.from_dict(given)
    job = moved_job(config, MOVED_KTO)
    learner = Learner(job)
    indices = learner.order.batch(0)
    singles = [job.train.tokens[index] for index in indices]
    rows = [
        {
            "prompt_ids": list(one.prompt),
            "completion_ids": list(one.chosen or one.rejected),
            "KL_completion_ids": list(other),
            "label": bool(one.chosen),
        }
        for one, (_, other) in zip(singles, mismatched(singles), strict=True)
    ]
    path, _ = builtin_model(CONFIG.model)
    trainer = SameSingles(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        args=KTOConfig(
            output_dir=str(scratch),
            per_device_train_batch_size=len(rows),
            beta=config.beta,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            **weights,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    move(trainer.model, MOVED_KTO)
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer._compute_loss(trainer.model, dict(inputs), False)
    theirs.backward()
    outcome = learner.gradient.accumulate(indices, 1, config.beta)
    difference, norm = gradient_difference(job.policy.model, trainer.model)
    (logged,) = (some["kl"][-1] for some in trainer._metrics.values() if some.get("kl"))
    ours, theirs = outcome.losses.mean().item(), theirs.item()
    apart = [abs(ours - theirs) / abs(theirs), abs(job.baseline - logged)]  # z0 in nats
    return Agreement(max(apart), difference / norm)


def compare_reference_free() -> dict[str, Agreement]:
    """SimPO, CPO and ORPO by TRL's functions for them, pair by pair."""
    job = moved_job(CONFIG)
    learner = Learner(job)
    pairs = learner.accumulate(learner.order.batch(0)).pairs
    settings = {"label_smoothing": 0.1, "alpha": 0.0, "simpo_gamma": 0.5}
    accelerator = SimpleNamespace(device="cpu")
    sft, found = LOSSES["sft"](pairs, 1.0), {}
    for name, beta in (("simpo", 2.5), ("cpo", 0.3), ("orpo", 0.3)):
        sides = pairs if name == "cpo" else pairs.per_token()
        logps = sides.policy_chosen, sides.policy_rejected
        kind = {"simpo": "simpo", "cpo": "sigmoid"}.get(name)
        trainer = SimpleNamespace(beta=beta, loss_type=kind, accelerator=accelerator, **settings)
        smooth = {} if name == "orpo" else {"label_smoothing": 0.1}
        ours = LOSSES[name](pairs, beta, **smooth)
        if name == "orpo":
            theirs = sft - ORPOTrainer.odds_ratio_loss(trainer, *logps)[0]
        else:
            theirs = CPOTrainer.cpo_loss(trainer, *logps)[0] + (sft if name == "cpo" else 0)
        found[name] = Agreement(((ours - theirs).abs() / theirs.abs()).max().item())
    return found


def moved_job(config: TrainConfig, by: float | None = None) -> Job:
    """A job whose policy has left its reference."""
    job = prepare(config)
    move(job.policy.model, by)
    return job


@torch.no_grad()
def move(model: nn.Module, by: float | None = None) -> None:
    """Add the same noise, by default `MOVED`, to the weights of every model of one kind."""
    by = MOVED if by is None else by
    generator = torch.Generator().manual_seed(0)
    for _, weight in sorted(model.named_parameters()):
        weight += by * torch.randn(weight.shape, generator=generator)


def gradient_difference(ours: nn.Module, theirs: nn.Module) -> tuple[float, float]:
    """Norm of the difference of two gradients, and norm of the second."""
    pairs = [
        (weight.grad, theirs.get_parameter(name).grad) for name, weight in ours.named_parameters()
    ]
    difference = torch.cat([(mine - other).flatten() for mine, other in pairs]).norm().item()
    return difference, torch.cat([other.flatten() for _, other in pairs]).norm().item()


def table(found: dict[str, Agreement]) -> str:
    """The README's table of losses."""
    rows = [
        "| name | loss of a pair | source | status | beside TRL 1.16 |",
        "|---|---|---|---|---|",
    ]
    for name, loss in LOSSES.items():
        link = f"[{loss.citation}](https://arxiv.org/abs/{loss.arxiv})"
        cells = [f"`{name}`", f"`{loss.formula}`", link, loss.status, _beside(name, loss, found)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _beside(name: str, loss, found: dict[str, Agreement]) -> str:
    if name not in found:
        return "TRL has none"
    agreement = found[name]
    largest = max(agreement.loss, agreement.gradient or 0)
    called = "" if loss.trl == name else f", its `{loss.trl}`" if "T" not in loss.trl else ""
    values = " (values)" if agreement.gradient is None else ""
    return f"{largest:.0e}{called}{values}"


if __name__ == "__main__":
    main()
