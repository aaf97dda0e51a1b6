"""TRL's side of `vs_trl.py`: its trainer on the lab's token ids, in the lab's order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from dpo_lab import Job
from dpo_lab.models.builtin import builtin_model
from dpo_lab.training.learner import Learner


class SameTokens(DPOTrainer):
    """Takes token ids as they are, one after the other."""

    def _prepare_dataset(self, dataset, *arguments, **keywords):
        return dataset

    def _get_train_sampler(self, *arguments, **keywords):
        return SequentialSampler(self.train_dataset)


class Clock(TrainerCallback):
    """Keeps the time and the log of every step."""

    def __init__(self):
        self.times, self.logs = [], []

    def on_step_begin(self, *arguments, **keywords):
        """Start the clock."""
        self.begun = time.perf_counter()

    def on_step_end(self, *arguments, **keywords):
        """Stop it."""
        self.times.append(time.perf_counter() - self.begun)

    def on_log(self, args, state, control, logs=None, **keywords):
        """Keep what TRL logs of a step."""
        if logs and "loss" in logs:
            self.logs.append(logs)


def run_trl(
    make_job: Callable[[], Job], scratch: Path, pairs_at_a_time: int | None = None, **settings
) -> dict:
    """Train with TRL on a job's pairs; seconds in all, and each step's loss and time."""
    job, clock = make_job(), Clock()
    path, _ = builtin_model(job.config.model)
    rows = rows_in_order(job)
    arguments = trl_config(job, scratch, pairs_at_a_time or job.config.batch_pairs, settings)
    del job  # the lab's model must not count as TRL's memory
    trainer = SameTokens(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[clock],
    )
    started, processor = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    steps = [
        {
            "loss": log["loss"],
            "chosen": log["logps/chosen"],
            "rejected": log["logps/rejected"],
            "seconds": spent,
        }
        for log, spent in zip(clock.logs, clock.times, strict=True)
    ]
    return {"seconds": seconds, "processor_seconds": processor, "steps": steps}


def rows_in_order(job: Job) -> list[dict]:
    """Token ids of the pairs as the lab's steps take them.

    Making the learner also lets this process keep freed memory, which is in TRL's favour.
    """
    learner = Learner(job)
    order = [index for step in range(learner.total_steps) for index in learner.order.batch(step)]
    # TRL looks at the texts once, to see whether they are conversations.
    return [
        {
            "prompt": "",
            "chosen": "",
            "rejected": "",
            "prompt_ids": list(pair.prompt),
            "chosen_ids": list(pair.chosen),
            "rejected_ids": list(pair.rejected),
        }
        for pair in (job.train.tokens[index] for index in order)
    ]


def trl_config(job: Job, scratch: Path, pairs_at_a_time: int, settings: dict) -> DPOConfig:
    """The lab's settings in TRL's words."""
    config = job.config
    return DPOConfig(
        output_dir=str(scratch / "trl"),
        max_steps=config.steps,
        per_device_train_batch_size=pairs_at_a_time,
        gradient_accumulation_steps=config.batch_pairs // pairs_at_a_time,
        max_length=config.max_length,
        **{"gradient_checkpointing": False, **settings},
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=False,
        use_cpu=True,
        beta=config.beta,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
