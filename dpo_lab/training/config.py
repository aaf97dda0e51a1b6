"""`TrainConfig`: all settings of a run in one frozen dataclass, validated on creation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar, get_args

from dpo_lab.data.pairs import PromptFormat, ScoreTurns
from dpo_lab.data.problems import ON_BAD_ROWS, OnBadRows
from dpo_lab.data.ranked import RANKED_PAIRS, RankedPairs
from dpo_lab.data.readers import MAX_GZ_GB
from dpo_lab.data.template_files import template_text
from dpo_lab.data.thinking import Thinking
from dpo_lab.data.thumbs import PAIR_UP, PairUp, Thumbs
from dpo_lab.models.model_settings import Precision, new_tokens
from dpo_lab.objective.pair_logps import FDivergence, PairLogps
from dpo_lab.objective.policy_gradient import (
    Baseline,
    Estimator,
    Place,
    PolicyGradient,
    Unit,
)
from dpo_lab.objective.registry import LOSSES, Loss, all_options, find_loss
from dpo_lab.objective.scored import Transform
from dpo_lab.training.checks import check_date, check_kinds, check_quantize, check_range
from dpo_lab.training.loss_checks import check_loss
from dpo_lab.training.loss_description import LAST_OPTION, loss_words
from dpo_lab.training.methods import METHODS, TRUTH, Method, check_method, policy_gradient_of
from dpo_lab.training.schedule import Schedule

Optimizer = Literal["adamw", "rmsprop"]

MOST_SEED = 2**32 - 1
# For full fine-tuning, and for LoRA: the same step moves a larger model further.
DEFAULT_LEARNING_RATES = {"micro": (1e-3, 1e-2), "smollm2": (3e-5, 1e-3)}
OTHER_LEARNING_RATES = (1e-6, 1e-5)
ON_POLICY = 0.3
"""Factor of the learning rate where the policy samples: answers that it stops giving in a few large
steps are never sampled again, so nothing brings them back."""


def _with_options_of_losses(config: type[Config]) -> type[Config]:
    """Add a field, None by default, for each option of a registered loss that has none yet.

    So the options of a new loss appear on the command line and in the workbench automatically.
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
    """Everything that decides what a run computes. `None` means: not given, use the default."""

    model: str = "micro"
    """Policy and reference: micro, smollm2, a folder or a hub id (owner/name)."""
    data: str = "reviews"
    """Preference pairs: reviews, places, a file (.jsonl, .json, .csv, .parquet), a folder or a hub
    id."""
    split: str = "train"
    """Split of the data to train on."""
    held_out: float = 0.1
    """Share of the prompts to hold out if the data has no test split; 0 for none."""
    method: Method = "dpo"
    """dpo and sft train on the pairs; online-dpo, rloo and grpo on the policy's own answers to
    their prompts, whose reward they need."""
    samples: int | None = None
    """Answers to each prompt in a step of rloo or grpo, 4 by default; online-dpo compares 2."""
    reward: str = TRUTH
    """What rates the policy's own answers: truth, the data's own score, or the folder of a reward
    model from 'dpo-lab reward-model train'."""
    baseline: Baseline | None = None
    """Policy gradients: what is subtracted from a reward; by default leave-one-out, for grpo
    mean."""
    kl_estimator: Estimator | None = None
    """Policy gradients: estimator of the KL; by default k1, for grpo k3."""
    kl_place: Place | None = None
    """Policy gradients: where the KL is taken off; by default the reward, for grpo the loss."""
    kl_unit: Unit | None = None
    """Policy gradients: whether the KL is that of the whole answer, by default, or each token's
    own, by default for grpo."""
    divide_by_deviation: bool | None = None
    """Policy gradients: divide by the standard deviation of a prompt's rewards; by default only
    grpo does."""
    loss: str = "sigmoid"
    """Loss by name, sigmoid being DPO ('dpo-lab losses' lists them), or a weighted sum such as
    'sigmoid + 0.2 sft'."""
    beta: float = 0.1
    """Larger keeps the policy closer to the reference; smaller lets it move further."""
    label_smoothing: float | None = None
    """Share of labels assumed to be flipped (conservative DPO, robust, exo_pair and others); 0 by
    default, 1e-3 for exo_pair."""
    f_divergence_type: FDivergence = "reverse_kl"
    """Divergence from the reference (f-DPO), for losses of the margin; DPO's is the reverse KL."""
    f_alpha_divergence_coef: float | None = None
    """Alpha of alpha_divergence, 0.5 by default."""
    ld_alpha: float | None = None
    """LD-DPO: weight, 0 to 1, of the longer answer's tokens beyond the shorter one's length."""
    use_weighting: bool = False
    """WPO: weight each pair by how likely both its answers are under the policy."""
    router_aux_loss_coef: float | None = None
    """Weight of the load-balancing loss of a mixture of experts; left out by default."""
    discopop_tau: float | None = None
    """Temperature of discopop's blend of two losses, 0.05 by default."""
    dpop_lambda: float | None = None
    """Weight of dpop's penalty on chosen answers that fall, 50 by default."""
    simpo_gamma: float | None = None
    """Target margin of simpo, 0.5 by default."""
    cpo_alpha: float | None = None
    """Weight of the SFT loss in cpo, 1 by default."""
    odpo_alpha: float | None = None
    """Weight of the score difference that odpo asks for beyond a margin of 0, 1 by default."""
    odpo_transform: Transform | None = None
    """What odpo takes of a score difference: identity, by default, or its log."""
    desirable_weight: float | None = None
    """Weight of good responses in kto, 1 by default."""
    undesirable_weight: float | None = None
    """Weight of bad responses in kto, 1 by default."""
    steps: int | None = None
    """Optimiser steps; by default one epoch."""
    epochs: float | None = None
    """Passes over the pairs, instead of steps."""
    batch_pairs: int = 16
    """Pairs per optimiser step, or prompts where the policy samples; the last step may have fewer
    with epochs."""
    group_by_prompt: bool = False
    """Put a prompt's pairs into one batch, as far as they fit: what they share is computed once.
    Choose batch_pairs as a multiple of a prompt's pairs."""
    micro_batch_tokens: int | None = None
    """Most tokens in one forward and backward pass: fewer take less memory and more time. By
    default 640 on the CPU, 8192 elsewhere."""
    learning_rate: float | None = None
    """Peak learning rate; by default 1e-3 for micro, 3e-5 for smollm2 and 1e-6, the paper's, for
    others; with LoRA 1e-2, 1e-3 and 1e-5; 0.3 times as much where the policy samples."""
    optimizer: Optimizer = "adamw"
    """AdamW, or RMSprop as in the paper."""
    schedule: Schedule = "linear"
    """Learning-rate schedule after warm-up; linear and cosine decay towards 0."""
    warmup_steps: int | None = None
    """Steps of warm-up to the peak learning rate; by default a tenth of all steps."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are clipped to this norm."""
    lora_rank: int | None = None
    """Rank of a LoRA adapter; by default all weights are trained."""
    lora_alpha: float | None = None
    """LoRA's alpha (the adapter is scaled by alpha / rank); twice the rank by default."""
    lora_targets: tuple[str, ...] = ()
    """Modules to adapt; by default every linear layer except the head."""
    quantize: Literal["4bit"] | None = None
    """QLoRA: hold the weights under the adapter in 4 bits (NF4, by bitsandbytes); needs lora_rank.
    By default float32."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    max_prompt_length: int | None = None
    """Most tokens of a prompt; longer ones lose their beginning. By default as many as fit."""
    prompt_format: PromptFormat = "auto"
    """How a text prompt is given to the model. auto: as a user message if the model has a chat
    template, unless the prompt contains written-out turns; chat: as a message; plain: as it is."""
    chat_template: str | None = None
    """A Jinja file to use instead of the model's own chat template."""
    score_turns: ScoreTurns = "all"
    """Which of the assistant's messages after the prompt are scored: all, or the last alone. What
    tools and later turns of the user say is read and never scored."""
    thinking: Thinking = "keep"
    """What becomes of thinking in answers. keep: as the data and the chat template have it; strip:
    taken out; empty: taken out, and the template asks for answers with thinking turned off."""
    template_date: str | None = None
    """The date, such as 2026-01-31, for a chat template that writes one; by default the day on
    which the run starts."""
    on_bad_rows: OnBadRows = ON_BAD_ROWS
    """skip leaves out rows that cannot be used, counts and reports them; raise stops there."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column names in the data for prompt, chosen, rejected, if they differ: prompt question
    chosen good ..."""
    ranked_pairs: RankedPairs = "all"
    """Pairs of several scored or ranked responses to a prompt: all of them, or the best with each
    other one."""
    pair_up: PairUp | None = None
    """Make pairs of single responses that are called good or bad: all of each prompt's good ones
    with all its bad ones, or balanced, each in one pair at most."""
    tie_weight: float = 0.0
    """Weight, 0 to 1, of pairs whose two scores are equal; by default such ties are left out."""
    limit: int | None = None
    """Train on only this many pairs: the first that are not held out."""
    max_gz_gb: float = MAX_GZ_GB
    """Most GB that a .gz file may unpack to; a small file can unpack to more than the memory."""
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
    """Most tokens of a generated answer; by default 48 for micro, else 192, enough for most. Longer
    answers are cut: KL counts up to the cut, and records give the share that was cut."""
    checkpoint_every: int = 50
    """Steps between checkpoints, with another after a minute without one; 0 for only one, at the
    end."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    """auto, float32 or bfloat16 (autocast; head and sums are always float32)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    revision: str | None = None
    """Revision of a model on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model; never read from a run, so give it again to resume."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps={self.steps}, epochs={self.epochs}: give one of them, not both."
            )
        for name, low, strict in _RANGES:
            check_range(name, getattr(self, name), low, strict)
        if self.seed > MOST_SEED:
            raise ValueError(f"seed={self.seed}: must be at most {MOST_SEED}.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: must be in [0, 1). 0 holds nothing out.")
        if not 0 <= self.tie_weight <= 1:
            raise ValueError(f"tie_weight={self.tie_weight}: must be in [0, 1]. 0 leaves ties out.")
        if self.template_date is not None:
            check_date("template_date", self.template_date)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: unknown. Use one of "
                    f"{', '.join(map(str, (v for v in allowed if v is not None)))}."
                )
        check_quantize(self.quantize, self.lora_rank)
        check_loss(vars(self), self.loss_function)
        check_method(vars(self))
        # Raises for a wrong value of an option.
        self.loss_function(PairLogps.at_reference(), self.beta, **self.loss_options)

    @property
    def loss_function(self) -> Loss:
        """The loss of pairs: that named by `loss`; for the method `sft` the loss `sft`."""
        return find_loss("sft" if self.method == "sft" else self.loss)

    @property
    def thumbs(self) -> Thumbs:
        """What becomes of single responses, and of pairs, as in `load_preferences`."""
        return "keep" if self.loss_function.unpaired else self.pair_up or "refuse"

    @property
    def on_policy(self) -> bool:
        """Whether steps sample answers of the policy."""
        return METHODS[self.method].on_policy

    @property
    def group_size(self) -> int:
        """Answers to each prompt in a step; 0 if the method samples none."""
        return self.samples or METHODS[self.method].samples

    @property
    def policy_gradient(self) -> PolicyGradient:
        """How policy gradients estimate the gradient of J."""
        return policy_gradient_of(vars(self))

    @property
    def loss_options(self) -> dict[str, Any]:
        """The loss's keyword options that were given; for the others the loss has defaults."""
        values = {name: getattr(self, name) for name in self.loss_function.options}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def aims_at_optimum(self) -> bool:
        """Whether pi* is the optimum, given enough Bradley-Terry labels or the true reward."""
        if self.reward != TRUTH:
            return False
        if METHODS[self.method].gradient is not None:
            return self.policy_gradient.aims_at_optimum
        options = self.loss_options
        reverse_kl = options.get("f_divergence_type", "reverse_kl") == "reverse_kl"
        plain = reverse_kl and not options.get("label_smoothing") and self.ld_alpha in (None, 1.0)
        return self.loss_function.bradley_terry and plain

    @property
    def loss_words(self) -> str:
        """The loss and the options that change it, as shown in a table of runs."""
        return loss_words(self.as_dict())

    def resolved(self) -> TrainConfig:
        """The configuration with every default that depends on the model filled in.

        A template's file name is replaced by its text, so that the file is not needed again.

        Raises:
            FileNotFoundError: If the template's file does not exist.
            ValueError: If it is not a template.
        """
        template = self.chat_template and template_text(self.chat_template)
        defaults = self._model_defaults.items()
        filled = {name: v for name, v in defaults if getattr(self, name) is None}
        return replace(self, chat_template=template, **filled)

    def unresolved(self) -> TrainConfig:
        """The configuration without values that equal this model's defaults, for another model."""
        defaults = [name for name, v in self._model_defaults.items() if getattr(self, name) == v]
        return replace(self, **dict.fromkeys([*defaults, "template_date"]))

    @property
    def _model_defaults(self) -> dict[str, float]:
        micro = self.model == "micro"
        rates = DEFAULT_LEARNING_RATES.get(self.model, OTHER_LEARNING_RATES)
        factor = ON_POLICY if self.on_policy else 1.0
        return {
            "learning_rate": rates[self.lora_rank is not None] * factor,
            "eval_pairs": 256 if micro else 64,
            "kl_samples": 128 if micro else 32,
            "max_new_tokens": new_tokens(self.model),
        }

    def total_steps(self, pairs: int) -> int:
        """Optimiser steps of a run on `pairs` training pairs."""
        return math.ceil(self.total_pairs(pairs) / self.batch_pairs)

    def total_pairs(self, pairs: int) -> int:
        """Pairs used in all steps together of a run on `pairs` training pairs."""
        if self.steps is not None:
            return self.steps * self.batch_pairs
        return max(1, round((1.0 if self.epochs is None else self.epochs) * pairs))

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps in a run of `total_steps`."""
        return total_steps // 10 if self.warmup_steps is None else self.warmup_steps

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration in a `config.json`.

        Its `trust_remote_code` is ignored, since the author of a file must not be able to run code:
        the user must give that setting each time.

        Raises:
            ValueError: If a field does not exist, or a value has the wrong type.
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
    """Help text of every setting, from the docstrings of fields, or the losses that take it."""
    from docstring_parser import parse_from_object

    texts = {p.arg_name: p.description or "" for p in parse_from_object(TrainConfig).params}
    for name, default in all_options().items():
        takers = [loss.title for loss in LOSSES.values() if name in loss.options]
        texts.setdefault(name, f"Option of {', '.join(takers)}; {default} by default.")
    return {name: " ".join(text.split()) for name, text in texts.items()}


# (field, lower bound, whether the bound itself is excluded)
_RANGES = (
    ("samples", 1, False),
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
    "method": get_args(Method),
    "baseline": (None, *get_args(Baseline)),
    "kl_estimator": (None, *get_args(Estimator)),
    "kl_place": (None, *get_args(Place)),
    "kl_unit": (None, *get_args(Unit)),
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "prompt_format": get_args(PromptFormat),
    "score_turns": get_args(ScoreTurns),
    "thinking": get_args(Thinking),
    "on_bad_rows": get_args(OnBadRows),
    "ranked_pairs": RANKED_PAIRS,
    "pair_up": (None, *PAIR_UP),
    "precision": get_args(Precision),
}
