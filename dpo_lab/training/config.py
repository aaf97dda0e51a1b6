"""The configuration of a run: one frozen dataclass, checked where it is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args

import tyro

from dpo_lab.data.pairs import PromptFormat
from dpo_lab.data.problems import ON_BAD_ROWS, OnBadRows
from dpo_lab.data.readers import MAX_GZ_GB
from dpo_lab.data.template_files import template_text
from dpo_lab.models.choices import Precision, new_tokens
from dpo_lab.objective.pair_logps import FDivergence, PairLogps
from dpo_lab.objective.registry import LOSSES, Loss, all_options, find_loss
from dpo_lab.training.checks import check_date, check_kinds, check_range
from dpo_lab.training.loss_words import LAST_OPTION, loss_words
from dpo_lab.training.schedule import Schedule

Optimizer = Literal["adamw", "rmsprop"]

MOST_SEED = 2**32 - 1
# Of all weights, and of an adapter: larger models are moved further by the same step.
DEFAULT_LEARNING_RATES = {"micro": (1e-3, 1e-2), "smollm2": (3e-5, 1e-3)}
OTHER_LEARNING_RATES = (1e-6, 1e-5)


def _with_options_of_losses(config: type[Config]) -> type[Config]:
    """A field, by default not given, for each option of a registered loss that has none here.

    So a new loss brings its options to the command line and the workbench by itself.
    """
    declared, annotations = config.__annotations__, {}
    for name, kind in declared.items():
        annotations[name] = kind
        if name == LAST_OPTION:
            for option, default in all_options().items():
                if option not in declared:
                    annotations[option] = f"{type(default).__name__} | None"
                    setattr(config, option, None)
    config.__annotations__ = annotations
    return config


Config = TypeVar("Config")


@dataclass(frozen=True)
@_with_options_of_losses
class TrainConfig:
    """Everything that decides what a run computes. `None` means: not given, choose for me."""

    model: str = "micro"
    """Policy and reference: micro, smollm2, a folder or a hub id (owner/name)."""
    data: str = "reviews"
    """Preference pairs: reviews, places, a file (.jsonl, .json, .csv, .parquet), a folder or a hub
    id."""
    split: str = "train"
    """Split of the data to train on."""
    held_out: float = 0.1
    """Share of the prompts to hold out, where the data has no test split of its own; 0 for none."""
    loss: str = "sigmoid"
    """Loss by name, sigmoid being DPO ('dpo-lab losses' lists them), or a weighted sum such as
    'sigmoid + 0.2 sft'."""
    beta: float = 0.1
    """Larger keeps the policy closer to the reference; smaller lets it move further."""
    label_smoothing: float | None = None
    """Share of labels taken to be flipped (conservative DPO, robust, exo_pair and others); by
    default 0, and 1e-3 for exo_pair."""
    f_divergence_type: FDivergence = "reverse_kl"
    """What ties the policy to its reference, in losses of the margin; DPO's is the reverse KL."""
    f_alpha_divergence_coef: float | None = None
    """Alpha of alpha_divergence, 0.5 by default."""
    ld_alpha: float | None = None
    """LD-DPO: weight, in 0 to 1, of a longer answer's tokens beyond the length of the shorter."""
    use_weighting: bool = False
    """WPO: weigh each pair by how likely the policy itself would be to give both answers."""
    router_aux_loss_coef: float | None = None
    """Weight of a mixture of experts' own balancing loss; by default it is left out."""
    discopop_tau: float | None = None
    """Width of discopop's change, 0.05 by default."""
    dpop_lambda: float | None = None
    """Weight of dpop's penalty on chosen answers that fall, 50 by default."""
    simpo_gamma: float | None = None
    """Margin that simpo asks for, 0.5 by default."""
    cpo_alpha: float | None = None
    """Weight of the likelihood in cpo, 1 by default."""
    steps: int | None = None
    """Optimiser steps; by default one epoch."""
    epochs: float | None = None
    """Passes over the pairs, instead of steps."""
    batch_pairs: int = 16
    """Pairs in an optimiser step; in the last one of so many epochs what is left, maybe fewer."""
    micro_batch_tokens: int | None = None
    """Most tokens in one forward and backward pass: less takes less memory and more time. By
    default 640 on the CPU, 8192 elsewhere."""
    learning_rate: Annotated[float | None, tyro.conf.arg(aliases=("--lr",))] = None
    """Peak learning rate; by default 1e-3 for micro, 3e-5 for smollm2 and 1e-6, the paper's, for
    others; with LoRA 1e-2, 1e-3 and 1e-5."""
    optimizer: Optimizer = "adamw"
    """AdamW, or RMSprop as in the paper."""
    schedule: Schedule = "linear"
    """Course of the learning rate after warm-up; linear and cosine fall towards 0."""
    warmup_steps: int | None = None
    """Steps below the peak learning rate, which it rises to; by default a tenth of all."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    lora_rank: int | None = None
    """Rank of a LoRA adapter; by default all weights are trained."""
    lora_alpha: float | None = None
    """Scale of the adapter; twice the rank by default."""
    lora_targets: tuple[str, ...] = ()
    """Modules to adapt; every linear layer but the head by default."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    max_prompt_length: int | None = None
    """Most tokens of a prompt; it loses its beginning. By default what the response leaves free."""
    prompt_format: PromptFormat = "auto"
    """How a prompt that is text is given to the model. auto: as a user's message where the model
    has a chat template, unless turns are written out in it; chat: as a message; plain: as it is."""
    chat_template: str | None = None
    """A file of Jinja to write conversations by, instead of the model's own chat template."""
    template_date: str | None = None
    """The date, such as 2026-01-31, for a chat template that writes one; by default the day on
    which the run begins."""
    on_bad_rows: OnBadRows = ON_BAD_ROWS
    """skip leaves out rows that cannot be used, counts and reports them; raise stops there."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names in the data of the columns prompt, chosen, rejected, where they differ: prompt question
    chosen good ..."""
    limit: int | None = None
    """Train on the first so many pairs only, of those that are not held out."""
    max_gz_gb: float = MAX_GZ_GB
    """Most GB that a .gz file may unpack to; a small file can hold more than the memory."""
    seed: int = 0
    """Seed of the order of pairs, the adapter and the samples."""
    eval_every: int = 25
    """Steps between evaluations on held-out pairs and prompts; 0 for none."""
    eval_pairs: int | None = None
    """Held-out pairs to evaluate on; by default 256 for micro, else 64; 0 for none."""
    kl_samples: int | None = None
    """Answers drawn from the policy to held-out prompts, to measure KL; by default 128 for micro,
    else 32; 0 for none."""
    sample_prompts: int = 6
    """Held-out prompts whose answers are shown; 0 for none."""
    max_new_tokens: int | None = None
    """Most tokens of an answer that is drawn; by default 48 for micro, else 192, within which most
    end. One that does not is cut: KL counts up to there, and records say what share was cut."""
    checkpoint_every: int = 50
    """Steps between checkpoints, with one more after a minute without any; 0 for one at the end
    alone."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    """auto, float32 or bfloat16 (autocast; head and sums are float32 either way)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    revision: str | None = None
    """Revision of a model on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model; never taken from a run's folder, so asked again there."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps={self.steps}, epochs={self.epochs}: give one of them, the other follows."
            )
        for name, low, strict in _RANGES:
            check_range(name, getattr(self, name), low, strict)
        if self.seed > MOST_SEED:
            raise ValueError(f"seed={self.seed}: must be at most {MOST_SEED}.")
        self._check_loss()
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: must be in [0, 1). 0 holds nothing out.")
        if self.template_date is not None:
            check_date("template_date", self.template_date)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: unknown. Use one of {', '.join(allowed)}."
                )

    def _check_loss(self) -> None:
        loss = self.loss_function
        for name in all_options():
            nothing = (None, 0) if name == "label_smoothing" else (None, "reverse_kl")
            if getattr(self, name) not in nothing and name not in loss.options:
                raise ValueError(
                    f"{name}={getattr(self, name)}: the loss {self.loss!r} takes none. "
                    "Use a loss that does ('dpo-lab losses' lists them), or leave it out."
                )
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise ValueError(f"ld_alpha={self.ld_alpha}: must be in 0 to 1; 1 is no weighting.")
        if self.ld_alpha is not None and loss.uses_lengths:
            raise ValueError(
                f"ld_alpha={self.ld_alpha}: the loss {self.loss!r} divides by the number of "
                "tokens, so that weighing some of them down would make long answers look better. "
                "Use a loss of sums, or leave it out."
            )
        if (
            self.f_alpha_divergence_coef is not None
            and self.f_divergence_type != "alpha_divergence"
        ):
            raise ValueError(
                f"f_alpha_divergence_coef={self.f_alpha_divergence_coef}: {self.f_divergence_type} "
                "has none. Use --f-divergence-type alpha_divergence "
                "(f_divergence_type='alpha_divergence'), or leave it out."
            )
        if self.use_weighting and loss.couples_pairs:
            raise ValueError(
                f"use_weighting=True: the loss {self.loss!r} sorts the batch, so that a value is "
                "no pair's and cannot be weighed. Use another loss."
            )
        loss(PairLogps.at_reference(), self.beta, **self.loss_options)  # refuses a wrong value

    @property
    def loss_function(self) -> Loss:
        """The loss by its name."""
        return find_loss(self.loss)

    @property
    def loss_options(self) -> dict[str, Any]:
        """The keyword options of the loss, those that were given; the others are its defaults."""
        given = {name: getattr(self, name) for name in self.loss_function.options}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def aims_at_optimum(self) -> bool:
        """Whether pi* is the loss's optimum, given pairs enough with Bradley-Terry labels."""
        options = self.loss_options
        reverse_kl = options.get("f_divergence_type", "reverse_kl") == "reverse_kl"
        plain = reverse_kl and not options.get("label_smoothing") and self.ld_alpha in (None, 1.0)
        return self.loss_function.bradley_terry and plain

    @property
    def loss_words(self) -> str:
        """The loss with all that changes it, as in a table of runs."""
        return loss_words(self.as_dict())

    def resolved(self) -> TrainConfig:
        """The same with a value for every default that depends on the model.

        A template's file becomes its text, so that it is not needed again.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no template.
        """
        template = self.chat_template and template_text(self.chat_template)
        defaults = self._model_defaults.items()
        left_open = {name: v for name, v in defaults if getattr(self, name) is None}
        return replace(self, chat_template=template, **left_open)

    def unresolved(self) -> TrainConfig:
        """The same with those values left open, for another model, that are this model's own."""
        own = [name for name, v in self._model_defaults.items() if getattr(self, name) == v]
        return replace(self, **dict.fromkeys([*own, "template_date"]))

    @property
    def _model_defaults(self) -> dict[str, float]:
        micro = self.model == "micro"
        rates = DEFAULT_LEARNING_RATES.get(self.model, OTHER_LEARNING_RATES)
        return {
            "learning_rate": rates[self.lora_rank is not None],
            "eval_pairs": 256 if micro else 64,
            "kl_samples": 128 if micro else 32,
            "max_new_tokens": new_tokens(self.model),
        }

    def total_steps(self, pairs: int) -> int:
        """Optimiser steps of the run on so many training pairs."""
        return math.ceil(self.total_pairs(pairs) / self.batch_pairs)

    def total_pairs(self, pairs: int) -> int:
        """Pairs that all steps of the run on so many training pairs show together."""
        if self.steps is not None:
            return self.steps * self.batch_pairs
        return max(1, round((1.0 if self.epochs is None else self.epochs) * pairs))

    def warmup(self, total_steps: int) -> int:
        """Steps of warm-up in a run of so many."""
        return total_steps // 10 if self.warmup_steps is None else self.warmup_steps

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration of a `config.json`.

        A file is data: its `trust_remote_code` is not taken, since it would let whoever wrote the
        file run code. Only a person gives that, each time.

        Raises:
            ValueError: If it names a field that does not exist, or a value is of the wrong kind.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(
                f"config: unknown field {unknown[0]!r}. Another version of the lab wrote it."
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        check_kinds(cls, values)
        return cls(**values | {"trust_remote_code": False})


@cache
def setting_texts() -> dict[str, str]:
    """What every setting does: from the docstrings of the fields, and of losses with more."""
    from docstring_parser import parse_from_object

    texts = {p.arg_name: p.description or "" for p in parse_from_object(TrainConfig).params}
    for name, default in all_options().items():
        takers = [loss.title for loss in LOSSES.values() if name in loss.options]
        texts.setdefault(name, f"Option of {', '.join(takers)}; {default} by default.")
    return {name: " ".join(text.split()) for name, text in texts.items()}


# (field, lowest value, whether it must be above it)
_RANGES = (
    ("beta", 0, True), ("steps", 1, False), ("epochs", 0, True), ("batch_pairs", 1, False),
    ("micro_batch_tokens", 1, False), ("learning_rate", 0, True), ("warmup_steps", 0, False),
    ("weight_decay", 0, False), ("max_grad_norm", 0, True), ("lora_rank", 1, False),
    ("router_aux_loss_coef", 0, True),
    ("lora_alpha", 0, True), ("max_length", 2, False), ("max_prompt_length", 1, False),
    ("limit", 1, False), ("max_gz_gb", 0, True), ("seed", 0, False), ("eval_every", 0, False),
    ("eval_pairs", 0, False),
    ("kl_samples", 0, False), ("sample_prompts", 0, False), ("max_new_tokens", 1, False),
    ("checkpoint_every", 0, False),
)  # fmt: skip

_CHOICES = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "prompt_format": get_args(PromptFormat),
    "on_bad_rows": get_args(OnBadRows),
    "precision": get_args(Precision),
}
