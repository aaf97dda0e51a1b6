"""A tiny model, rows in each shape, and a script run with TRL's or the lab's trainer."""

import json
import sys
from pathlib import Path

import transformers
from tiny import make_tokenizer
from transformers import PreTrainedTokenizerFast

SCRIPT = Path(__file__).parent / "preference_script.py"
IMPORT = "from trl import DPOConfig, DPOTrainer"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Nothing after the end of a turn, so that TRL scores no token that the lab leaves out."""
WORDS = ["yes", "no", "there", "where", "the answer", "it is", "is it", "there it is"]


def rows(count: int, shape: str = "explicit") -> list[dict]:
    """Preferences with prompts and answers of unequal length."""
    made = []
    for i in range(count):
        prompt = f"where is {WORDS[i % 8]} {'and so on ' * (i % 3)}{i}?"
        chosen, rejected = f" {WORDS[(i * 3 + 1) % 8]} {i}", f" {WORDS[(i * 5 + 2) % 8]} no {i * 7}"
        if shape == "conversational":
            made.append(
                {
                    "prompt": [{"role": "user", "content": prompt}],
                    "chosen": [{"role": "assistant", "content": chosen.strip()}],
                    "rejected": [{"role": "assistant", "content": rejected.strip()}],
                }
            )
        else:
            made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return made


def tokenizer_with(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tiny_model(folder: Path) -> Path:
    """A tiny Llama with its tokenizer, for `from_pretrained`."""
    transformers.set_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=1,
        bos_token_id=0,
        initializer_range=0.2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer_with().save_pretrained(folder)
    return folder


def write_rows(path: Path, some: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return path


def run_script(arguments: list, monkeypatch, trainer: str = "trl") -> dict:
    """What the script's names stand for at its end."""
    text = SCRIPT.read_text()
    assert IMPORT in text
    if trainer == "lab":
        text = text.replace(IMPORT, IMPORT.replace("trl", "dpo_lab"))
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    names: dict = {}
    exec(compile(text, str(SCRIPT), "exec"), names)
    return names
