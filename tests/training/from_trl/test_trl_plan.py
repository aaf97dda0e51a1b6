"""Which rows make which step: beside transformers' own trainer and data loader."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

from dpo_lab.training.config import TrainConfig
from dpo_lab.training.trl_trainer.plan import TrlPlan

CASES = {
    "whole batches": (24, {}),
    "a rest": (23, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    "a rest of a window": (
        26,
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 4},
    ),
    "dropped": (23, {"per_device_train_batch_size": 5, "dataloader_drop_last": True}),
    "dropped in windows": (
        23,
        {
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "dataloader_drop_last": True,
        },
    ),
    "seeds": (19, {"seed": 3, "data_seed": 11}),
    "in order": (19, {"train_sampling_strategy": "sequential"}),
    "steps": (19, {"max_steps": 9}),
    "part of an epoch": (40, {"num_train_epochs": 1.5, "per_device_train_batch_size": 4}),
    "fewer than a batch": (5, {"per_device_train_batch_size": 8}),
}


def theirs(rows: int, args: TrainingArguments) -> tuple[list[list[int]], list[float]]:
    """Rows of each step, and epochs after it, as transformers' own loop goes through them."""
    model = nn.Linear(1, 1)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=[{"row": row} for row in range(rows)],
        data_collator=lambda some: {"rows": [one["row"] for one in some]},
    )
    steps, epochs, window = [], [], []

    def training_step(model, inputs, *more):
        window.extend(inputs["rows"])
        return torch.tensor(0.0)

    class Ends(trainer.callback_handler.callbacks[0].__class__):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(list(window))
            epochs.append(state.epoch)
            window.clear()
            return super().on_step_end(args, state, control, **kwargs)

    trainer.training_step = training_step
    trainer.floating_point_ops = lambda inputs: 0
    trainer.callback_handler.callbacks[0] = Ends()
    trainer.train()
    return steps, epochs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_steps_are_those_of_transformers(case, tmp_path):
    rows, given = CASES[case]
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    quiet |= {"logging_strategy": "no", "remove_unused_columns": False, "max_grad_norm": 0.0}
    args = TrainingArguments(str(tmp_path), **{"seed": 42, **quiet, **given})
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    plan = TrlPlan(TrainConfig(batch_pairs=size), rows, args)
    steps, epochs = theirs(rows, args)
    assert plan.total_steps == len(steps)
    assert [plan.batch(step) for step in range(plan.total_steps)] == steps
    assert [plan.epoch(step + 1) for step in range(plan.total_steps)] == pytest.approx(epochs)
    shown = [sum(map(len, steps[:count])) for count in range(len(steps) + 1)]
    assert [plan.shown(count) for count in range(len(steps) + 1)] == shown


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 4, 0.3])
def test_learning_rates_are_those_of_its_scheduler(kind, warmup, tmp_path):
    args = TrainingArguments(
        str(tmp_path), lr_scheduler_type=kind, warmup_steps=warmup, max_steps=10, use_cpu=True
    )
    plan = TrlPlan(TrainConfig(batch_pairs=8), 100, args)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_scheduler(kind, optimizer, args.get_warmup_steps(10), 10)
    for step in range(10):
        assert 0.5 * plan.share_of_peak(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_a_batch_that_nothing_fills_is_refused(tmp_path):
    args = TrainingArguments(str(tmp_path), dataloader_drop_last=True, use_cpu=True)
    with pytest.raises(ValueError, match="dataloader_drop_last=True: 5 pairs make no whole batch"):
        TrlPlan(TrainConfig(batch_pairs=8), 5, args).batch(0)
