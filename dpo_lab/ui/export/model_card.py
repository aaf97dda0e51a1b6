"""The card of an exported model: what it was trained on, how far it went, how the copy compares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.analysis.agreement import Agreement
from dpo_lab.models.builtin import BUILTIN_MODELS, HUB_ID
from dpo_lab.models.model_settings import DType
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.loss_description import loss_words
from dpo_lab.training.methods import METHODS
from dpo_lab.training.runs import Run
from dpo_lab.ui.export.check_table import cell, check_words
from dpo_lab.ui.report.summary import tiles

CURVES = "curves.svg"
LICENSES = {"micro": "apache-2.0", "smollm2": "apache-2.0"}
"""Of the built-in models."""
SHOWN_STEPS = 8
"""Rows of the table of curves."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside what is in the run's folder.

    Attributes:
        form: `adapter`, or `merged`, or `whole` for a run that trained all weights.
        dtype: What the weights are written in.
        base: The base that an adapter needs, by name.
        step: Step of the checkpoint.
        agreements: How the exported folder compares with the policy.
        probes: On what, in words.
        license: Of the model, if known.
    """

    form: str
    dtype: DType
    base: str | None
    step: int
    agreements: Sequence[Agreement]
    probes: str
    license: str | None


def model_card(run: Run, facts: CardFacts, curves: bool = True) -> str:
    """The card as Markdown with its YAML front matter, as the hub reads it.

    Args:
        run: The run.
        facts: What else it says.
        curves: Whether the picture of the curves lies beside the card.
    """
    config, environment = run.config, run.environment
    records = History.of(run.records())
    parts = [
        f"# {run.path.resolve().name}",
        _first_words(config, facts),
        "## Use",
        _use(run, facts),
        "## Training",
        _table(_training(run, config, environment, facts)),
        "## What changed",
        _changes(records, run.summary.get("outcome")),
        "## Curves",
        *([f"![Curves of the training run]({CURVES})"] if curves else []),
        _steps(records),
        "## Is this the policy that was trained?",
        check_words(facts.agreements, facts.probes, records.last("kl/per_token")),
        "## Settings",
        _settings(config),
    ]
    return f"---\n{_front_matter(config, facts)}\n---\n\n" + "\n\n".join(parts) + "\n"


def hub_name(name: str) -> str | None:
    """The hub's name of a model or of data, if it is one."""
    if name == "smollm2":
        return HUB_ID
    plain = re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name)
    return name if plain and not Path(name).exists() else None


def _front_matter(config: TrainConfig, facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    base, data = hub_name(config.model), hub_name(config.data)
    relation = {"adapter": "adapter"}.get(facts.form, "finetune")
    card = ModelCardData(
        base_model=base,
        base_model_relation=relation if base else None,
        datasets=[data] if data else None,
        license=facts.license,
        library_name="peft" if facts.form == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=[config.method, "dpo-lab", *(["lora"] if config.lora_rank else [])],
    )
    return card.to_yaml().strip()


def _first_words(config: TrainConfig, facts: CardFacts) -> str:
    what = {
        "adapter": "The LoRA adapter of a policy",
        "merged": "A policy, its LoRA adapter merged into the weights,",
        "whole": "A policy, all of its weights,",
    }[facts.form]
    material = "preference pairs" if not config.on_policy else "its own answers to the prompts"
    title = METHODS[config.method].title
    return (
        f"{what} trained by {title} from `{shown_name(config.model)}` on {material} of "
        f"`{shown_name(config.data)}`, with DPO Lab. Weights: {facts.dtype}."
    )


def _use(run: Run, facts: CardFacts) -> str:
    chat = run.environment.get("text", {}).get("used", "plain") != "plain"
    asked = [sample.prompt for sample in run.last_samples()[:1]] or ["Hello"]
    prompt = json.dumps(asked[0] if len(asked[0]) < 200 else "Hello", ensure_ascii=False)
    ask = prompt
    if chat:
        ask = f'[{{"role": "user", "content": {prompt}}}], add_generation_prompt=True, '
        ask += "return_dict=True"
    call = "tokenizer.apply_chat_template(" if chat else "tokenizer("
    needs = "`transformers`"
    if facts.form == "adapter":
        needs += f" and `peft`; the base `{facts.base}` is loaded with it"
    note = ""
    if run.config.quantize:
        note = (
            "\n\nThe policy was trained on weights in 4 bits (QLoRA, NF4 with double "
            "quantisation). Loaded in another way it is not quite the same, see the table below; "
            "`quantization_config=BitsAndBytesConfig(load_in_4bit=True, "
            'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)` loads an adapter as it '
            "was trained."
        )
    if run.config.thinking == "empty":
        note += (
            "\n\nThe policy was trained to answer with thinking turned off: give "
            "`apply_chat_template` the template's switch for that, `enable_thinking=False` or "
            "`thinking=False`."
        )
    return (
        f"With {needs}:\n\n```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder, or its name on the hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")\n'
        f'inputs = {call}{ask}, return_tensors="pt")\n'
        "answer = model.generate(**inputs, max_new_tokens=64)\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :]))\n```' + note
    )


def _training(
    run: Run, config: TrainConfig, environment: Mapping[str, Any], facts: CardFacts
) -> dict[str, str]:
    """Rows of the table of training."""
    pairs, packages = environment.get("pairs", {}), environment.get("packages", {})
    reference = f"{environment.get('weights_origin', 'unknown')}"
    if config.revision:
        reference += f", revision {config.revision}"
    rows = {
        "method": METHODS[config.method].title,
        "loss": loss_words(config.as_dict()),
        "beta": f"{run.live.beta:g}",
        "data": _data(config, environment),
        "pairs": f"{pairs.get('train', '?')} to train, {pairs.get('held_out', '?')} held out",
        "data's digest": f"`{environment.get('data_fingerprint', 'unknown')}`",
        "steps": f"{facts.step} of {environment.get('total_steps', '?')}, "
        f"{config.batch_pairs} {'prompts' if config.on_policy else 'pairs'} each",
        "peak learning rate": f"{run.live.learning_rate:g} ({config.optimizer}, {config.schedule})",
        "LoRA rank": f"{config.lora_rank}" if config.lora_rank else "none: all weights",
        "precision": config.precision,
        "seed": f"{config.seed}",
        "reference": f"the policy before training: {reference}",
        "reference's digest": f"`{environment.get('weights_fingerprint', 'unknown')}`",
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
    }
    return rows


def _data(config: TrainConfig, environment: Mapping[str, Any]) -> str:
    """How many pairs of how many rows; a path on this machine is nobody else's business."""
    reports = environment.get("load_reports", [])
    words = [f"{one['source']}: {one['kept']} pairs of {one['rows']} rows" for one in reports]
    return "; ".join(words).replace(config.data, shown_name(config.data)) or shown_name(config.data)


def shown_name(name: str) -> str:
    """A model or data by the name that others know; of a path on this machine only its end."""
    return hub_name(name) or Path(name).name


def _changes(records: History, outcome: Mapping[str, Any] | None) -> str:
    found = tiles(records, outcome)
    if not found:
        return "Nothing was measured on held-out prompts."
    lines = ["| | before | after | |", "|---|---|---|---|"]
    for label, tile in found.items():
        numbers = [
            "–" if tile[when] is None else f"{tile[when]:.3f}" for when in ("before", "after")
        ]
        lines.append(f"| {cell(label)} | {' | '.join(numbers)} | {cell(tile['text'])} |")
    return "\n".join(lines)


def _steps(records: History) -> str:
    """The curves as a table: at the evaluations, or at every so many steps."""
    keys = {
        "loss": "loss",
        "held-out loss": "eval/loss",
        "reward margin": "rewards/margins",
        "log-ratio of chosen": "logratios/chosen",
        "of rejected": "logratios/rejected",
        "KL": "kl/per_token",
        "reward": "on_policy/reward",
    }
    keys = {title: key for title, key in keys.items() if records.last(key) is not None}
    evaluated = [r for r in records if "eval/loss" in r.values or "kl/per_token" in r.values]
    rows = evaluated or list(records)
    if not rows:
        return "No step was recorded."
    count = min(SHOWN_STEPS, len(rows))
    picked = sorted({round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)})
    lines = [f"| step | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    for record in (rows[at] for at in picked):
        cells = [record.get(key) for key in keys.values()]
        cells = ["" if value is None else f"{value:.4g}" for value in cells]
        lines.append(f"| {record.step} | {' | '.join(cells)} |")
    return (
        "\n".join(lines)
        + "\n\nLog-ratios and KL in nats an answer; the KL on the policy's own samples."
    )


def _settings(config: TrainConfig) -> str:
    """Settings that are not the defaults, as they would be given again."""
    defaults = TrainConfig().as_dict()
    changed = {name: value for name, value in config.as_dict().items() if value != defaults[name]}
    changed.pop("chat_template", None)
    for name in changed.keys() & {"model", "data", "reward"}:
        changed[name] = shown_name(changed[name])
    lines = "\n".join(f"{name}: {value}" for name, value in changed.items())
    return f"Those that are not DPO Lab's defaults:\n\n```yaml\n{lines}\n```"


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def license_of(name: str, given: str | None) -> str | None:
    """The license that the card names: the given one, or that of a built-in model."""
    return given or (LICENSES[name] if name in BUILTIN_MODELS else None)
