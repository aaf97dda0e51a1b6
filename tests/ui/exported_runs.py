"""Small runs to export: of tiny random models, with and without LoRA."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import make_language_model
from tiny_tokenizers import TEMPLATES

from dpo_lab.models.weights import save_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run

WORDS = ["the answer", "it", "there", "yes", "no", "the river", "a lake", "the plot"]
ROWS = [
    {"prompt": f"where is {word}", "chosen": f" {word} is there", "rejected": " no" * (1 + at % 3)}
    for at, word in enumerate(WORDS)
]
HOW = {
    "steps": 3, "batch_pairs": 4, "learning_rate": 2e-2, "held_out": 0.4, "eval_every": 3,
    "eval_pairs": 2, "kl_samples": 4, "sample_prompts": 2, "max_new_tokens": 8, "device": "cpu",
}  # fmt: skip


def tiny_folder(path: Path, family: str = "Llama", template: str | None = None) -> Path:
    """A tiny model of a family as a folder."""
    model = make_language_model(family, bos=True)
    if template:
        model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        model.tokenizer.chat_template, _ = TEMPLATES[template]
    save_model(model, path)
    return path


def tiny_run(path: Path, family: str = "Llama", template: str | None = None, **settings) -> Run:
    """A run of a few steps that moved a tiny model far."""
    data = path / "pairs.jsonl"
    path.mkdir(parents=True, exist_ok=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    model = tiny_folder(path / "base", family, template)
    config = TrainConfig(model=str(model), data=str(data), **HOW | settings)
    run_job(config, path / "run")
    return Run.open(path / "run")
