"""What several processes and one process train alike: run as a script by a launcher, or called.

Usage: torchrun ... process_cases.py FOLDER [CASE ...]: each case's records into FOLDER/CASE.json.
With --runs, each case is a run in a folder there, which goes on if it has begun.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import torch
from tiny import GROUPED, make_tokenizer, shake
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.processes import join_processes, leave_processes
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.job import Job
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create

LOSSES = ("sigmoid", "ipo", "aot", "robust", "sigmoid + 0.2 sft")
PAIRS = [
    {
        "prompt": f"where is {'the ' * (1 + i % 7)}answer {i % 11}",
        "chosen": f" it is {'there ' * (i % 5)}{i}",
        "rejected": f" no{' answer' * (1 + i % 3)}",
    }
    for i in range(60)
]
SHORT = {"steps": 20, "eval_every": 10, "kl_samples": 11, "sample_prompts": 3, "eval_pairs": 40}
LONG = {"steps": 200, "eval_every": 100, "kl_samples": 11, "sample_prompts": 0, "eval_pairs": 40}


def cases() -> dict[str, tuple[str, torch.dtype, dict]]:
    """Model, type of its weights, and settings, by the name of the case."""
    micro = {"model": "micro", "data": "reviews", "batch_pairs": 10, "limit": 300}
    tied = {"batch_pairs": 7, "learning_rate": 1e-3, "held_out": 0.25, "max_new_tokens": 8}
    found = {}
    for loss in LOSSES:
        name = loss.split()[0] + ("+" if "+" in loss else "")
        options = {"loss": loss}
        options |= {"label_smoothing": 0.1} if loss == "robust" else {}
        # Its gradient grows with the distance to its target: at a higher rate rounding errors grow.
        options |= {"learning_rate": 1e-4} if loss == "ipo" else {}
        found[f"micro {name}"] = ("micro", torch.float32, micro | SHORT | options)
        found[f"tied {name}"] = ("tied", torch.float32, tied | SHORT | options)
        found[f"tied {name} float64"] = ("tied", torch.float64, tied | LONG | options)
    # What a batch has in common, across processes: z0, a running mean, rankings.
    for loss in ("kto", "bco", "plackett_luce"):
        found[f"tied {loss} float64"] = ("tied", torch.float64, tied | SHORT | {"loss": loss})
    lora = {"lora_rank": 4, "learning_rate": 1e-3}
    found["micro lora"] = ("micro", torch.float32, micro | SHORT | lora)
    found["tied lora float64"] = ("tied", torch.float64, tied | LONG | lora)
    wpo = {"use_weighting": True, "ld_alpha": 0.5, "micro_batch_tokens": 120}
    found["tied wpo ld float64"] = ("tied", torch.float64, tied | LONG | wpo)
    for method in ("rloo", "online-dpo"):
        sampled = {"method": method, "batch_pairs": 5}
        found[f"micro {method}"] = ("micro", torch.float32, micro | SHORT | sampled)
        found[f"tied {method} float64"] = ("tied", torch.float64, tied | LONG | sampled)
    # With three processes one has no pair at all.
    found["tied short batches"] = ("tied", torch.float64, tied | SHORT | {"batch_pairs": 2})
    return found


def tied_llama(dtype: torch.dtype) -> LanguageModel:
    """A tiny Llama with a tied head; in float64 with norms that compute in float64 as well."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=320, tie_word_embeddings=True, eos_token_id=1, **GROUPED)
    )
    shake(model.eval(), 0.15, 0)
    if dtype == torch.float64:
        for module in [m for m in model.modules() if hasattr(m, "input_layernorm")]:
            module.input_layernorm = nn.RMSNorm(32, eps=1e-6)
            module.post_attention_layernorm = nn.RMSNorm(32, eps=1e-6)
        model.model.norm = nn.RMSNorm(32, eps=1e-6)
    return LanguageModel(model.to(dtype), tokenizer, "tied Llama", "test")


def reward_of(prompt: str, response: str) -> float:
    """Likes the letter e, and dislikes long answers."""
    return response.count("e") - len(response) / 10


def job_of(model: str, dtype: torch.dtype, settings: dict, strategy: str = "ddp") -> Job:
    """The job of a case."""
    if model == "micro":
        lm = load_model("micro", device="cpu")
    else:
        lm = tied_llama(dtype)
    data = None if model == "micro" else PAIRS
    config = TrainConfig(device="cpu", **settings)
    reward = None if model == "micro" or not config.on_policy else reward_of
    job = prepare(config, model=lm, data=data, training_reward=reward, strategy=strategy)
    if strategy == "fsdp":
        for weight in job.policy.model.parameters():
            rows = -(-len(weight) // job.processes.count)
            assert weight.to_local().numel() <= rows * weight[0].numel(), "it has the whole"
    if dtype == torch.float64:
        assert {weight.dtype for weight in job.policy.model.parameters()} == {dtype}
    return job


def records_of(job: Job, run: Run | None, until: int | None) -> list[dict]:
    """The records of a job, up to a step at which its run is left."""
    if run is not None:
        job.processes.from_first(lambda: open_or_create(run, job, resume=True) and None)
    records = []
    for record in train(job, run=run):
        records.append(record.as_dict())
        if record.step == until:
            break
    return records


def main() -> None:
    """Write the records of the cases that are named, or of all."""
    torch.set_num_threads(1)
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--until", type=int)
    asked = parser.parse_intermixed_args()
    processes, known = join_processes(), cases()
    for name in asked.names or known:
        job = job_of(*known[name], strategy=asked.strategy)
        records = records_of(job, asked.runs and Run(asked.runs / name), asked.until)
        everyone = processes.gather(records)
        assert all(other == everyone[0] for other in everyone), f"{name}: ranks differ"
        if processes.first:
            (asked.folder / f"{name}.json").write_text(json.dumps(records))
    leave_processes()


if __name__ == "__main__":
    main()
