"""How the cost of a step grows: prompt length, response length, pairs, vocabulary, width.

    python benchmarks/scaling.py [--json result.json]

A small random Llama is trained on random pairs, one thing is doubled at a time, and every point has
a process of its own. Times are the best of some steps; memory is what a process took at most above
what it held before the first step, weights included.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Point:
    """One size of everything."""

    prompt: int = 128
    response: int = 64
    pairs: int = 8
    vocabulary: int = 4096
    width: int = 256


FACTORS = (1, 2, 4, 8)
STEPS = 4


@dataclass(frozen=True)
class Scaling:
    """Measure the cost of a step as sizes double."""

    json: Path | None = None
    """Where to write the results."""


def measure(point: Point) -> dict[str, float]:
    """Seconds of the best step, and peak memory in GB."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from dpo_lab import TrainConfig, prepare, train
    from dpo_lab.models.loading import LanguageModel

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=point.vocabulary,
        hidden_size=point.width,
        intermediate_size=3 * point.width,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    words = {"<unk>": 0, "</s>": 1} | {f"w{n}": n for n in range(2, point.vocabulary)}
    words = Tokenizer(WordLevel(words, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    model = LanguageModel(LlamaForCausalLM(config), tokenizer, "random Llama", "made here")
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(2, 4000)}" for _ in range(length))

    rows = [
        {
            "prompt": text(point.prompt),
            "chosen": text(point.response),
            "rejected": text(point.response),
        }
        for _ in range(point.pairs)
    ]
    settings = TrainConfig(
        steps=STEPS,
        batch_pairs=point.pairs,
        max_length=4096,
        held_out=0.0,
        learning_rate=1e-6,
        eval_every=0,
    )
    records = list(train(prepare(settings, model=model, data=rows)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(weight.numel() for weight in model.model.parameters())
    return {
        "seconds": min(record.timing["seconds"] for record in records),
        "gb": (peak - before) * 1024 / 1e9,
        "weights_gb": 4 * weights / 1e9,
    }


def main() -> None:
    """Measure every point and print a table."""
    scaling = tyro.cli(Scaling, description=__doc__)
    results = []
    print("| doubled | size | ms a step | memory, GB | weights, gradient, Adam, GB |")
    print("|---|---|---|---|---|")
    for name, size in asdict(Point()).items():
        for factor in FACTORS:
            point = replace(Point(), **{name: size * factor})
            print(f"{name} {size * factor} ...", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found = process.submit(measure, point).result()
            results.append({"axis": name, "size": size * factor, **found})
            print(
                f"| {name} | {size * factor} | {1e3 * found['seconds']:.0f} | {found['gb']:.2f} "
                f"| {4 * found['weights_gb']:.2f} |",
                flush=True,
            )
    if scaling.json:
        scaling.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
