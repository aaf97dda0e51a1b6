"""What `gpu.py` measures on: this machine's plan, models of real shapes, pairs, a clock."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.setup import prepare

WORDS = 400
_LLAMA: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
SHAPES: dict[str, Any] = {
    "SmolLM2-135M": lambda: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, **_LLAMA,
    ),
    "Qwen3-0.6B": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    "Llama-1B": lambda: LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        **_LLAMA,
    ),
    "Qwen3-1.7B": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    "tiny": lambda: LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **_LLAMA,
    ),
}  # fmt: skip
"""Configurations by name; the real ones as their model cards give them."""


@dataclass
class Plan:
    """What is measured on this machine.

    Attributes:
        device: The device.
        models: Names of shapes, from small to large.
        lengths: Most tokens of a sequence.
        batches: Pairs in a step.
        steps: Timed steps of a measurement, after two that are not.
        varied: Steps of varied lengths, in which compilations are counted.
        drawn: Answers sampled, and tokens of each.
    """

    device: torch.device
    models: tuple[str, ...] = ("SmolLM2-135M", "Qwen3-0.6B", "Llama-1B", "Qwen3-1.7B")
    lengths: tuple[int, ...] = (512, 2048)
    batches: tuple[int, ...] = (8, 32, 64)
    steps: int = 4
    varied: int = 50
    drawn: tuple[int, int] = (64, 128)
    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="dpo-lab-gpu-")))

    @classmethod
    def for_this_machine(cls) -> Plan:
        """All of it on a GPU, the smallest form elsewhere."""
        if torch.cuda.is_available():
            return cls(torch.device("cuda", 0))
        return cls(torch.device("cpu"), ("tiny",), (48,), (4,), 2, 4, (4, 6))

    @property
    def bf16(self) -> bool:
        """Whether the device computes in bfloat16 without emulation."""
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )


def language_model(plan: Plan, name: str) -> LanguageModel:
    """A model of a shape with random weights, whose words are its first tokens."""
    release(plan)
    torch.manual_seed(0)
    config = SHAPES[name]()
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    with plan.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    disable_dropout(model)
    words = {
        w: n for n, w in enumerate(["<bos>", "<eos>", "<pad>", *(f"w{i}" for i in range(WORDS))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    return LanguageModel(model, wrapped, name, "random weights")


def job(
    plan: Plan,
    lm: LanguageModel,
    longest: int,
    batch: int,
    *,
    steps: int | None = None,
    even: bool = True,
    keep_reference: bool = False,
    **options: Any,
) -> Job:
    """A job over pairs of up to `longest` tokens, each pair used once."""
    steps = steps or plan.steps + 2
    config = TrainConfig(
        **{
            "model": lm.name, "steps": steps, "batch_pairs": batch, "max_length": longest,
            "held_out": 0.0, "eval_every": 0, "eval_pairs": 0, "sample_prompts": 0,
            "learning_rate": 1e-6, "schedule": "constant", "warmup_steps": 0,
            "device": plan.device.type, "checkpoint_every": 1,
        } | options
    )  # fmt: skip
    cache = ReferenceCache(plan.scratch / f"{time.monotonic_ns()}.sqlite")
    data = pairs(steps * batch, longest, even)
    return prepare(config, model=lm, data=data, cache=cache, keep_reference=keep_reference)


def pairs(count: int, longest: int, even: bool) -> list[dict[str, str]]:
    """Prompts of half of a length and answers of a quarter each, where it is the longest or less.

    Args:
        count: How many.
        longest: Most tokens of prompt and answer.
        even: Lengths around the longest; else from a tenth of it on.
    """
    draw = random.Random(0)

    def words(number: float) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(max(1, int(number))))

    rows = []
    for _ in range(count):
        length = longest * draw.uniform(0.7 if even else 0.1, 1.0) - 4
        sides = length * draw.uniform(0.2, 0.4), length * draw.uniform(0.2, 0.4)
        rows.append(
            {
                "prompt": words(length * 0.55),
                "chosen": " " + words(sides[0]),
                "rejected": " " + words(sides[1]),
            }
        )
    return rows


def timed(plan: Plan, work: Callable[[], object]) -> float:
    """Seconds that a call takes, until the device is done with it."""
    wait(plan)
    started = time.perf_counter()
    work()
    wait(plan)
    return time.perf_counter() - started


def wait(plan: Plan) -> None:
    """Wait for the device."""
    if plan.device.type == "cuda":
        torch.cuda.synchronize()


def release(plan: Plan) -> None:
    """Give back memory of earlier measurements, and count peaks anew."""
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
