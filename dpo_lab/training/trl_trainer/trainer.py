"""`DPOTrainer`: TRL's trainer by name and arguments, on the lab's loop."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, PrinterCallback
from transformers.trainer_utils import TrainOutput, speed_metrics

from dpo_lab.models.weights import load_weights
from dpo_lab.training.checkpoints import noted_at_checkpoint
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.files import write_json
from dpo_lab.training.hf_logs import evaluation_logs
from dpo_lab.training.loop import train
from dpo_lab.training.report_to import arguments_of, tracker_callbacks
from dpo_lab.training.runs import Run
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.training.trl_trainer.build import Given, job_of_arguments, job_of_config
from dpo_lab.training.trl_trainer.dpo_config import DPOConfig
from dpo_lab.training.trl_trainer.evaluation import measured, on_other_pairs
from dpo_lab.training.trl_trainer.flow import Flow
from dpo_lab.training.trl_trainer.folders import (
    STATE,
    history_until,
    keep_checkpoint,
    new_run,
    run_to_resume,
)
from dpo_lab.training.trl_trainer.inputs import pairs_of
from dpo_lab.training.trl_trainer.refusals import check_arguments, check_callback, check_subclass
from dpo_lab.training.trl_trainer.saving import Saving


class DPOTrainer(Saving):
    """Trains as `trl.DPOTrainer` would with the same arguments, and also measures KL and samples.

    Order of rows, steps, schedule, optimiser and losses are TRL's, so that losses agree step for
    step. `output_dir` gets checkpoints as there (`checkpoint-500`), and a run of the lab in
    `run/`: curves, answers, and a report (`dpo-lab runs report OUTPUT_DIR/run`). The reference is
    the model as it is when it is handed over. What the lab does not do is refused by name.

    Args:
        model: A name, or a loaded transformers or peft model, which is trained in place.
        ref_model: None, or a model with the same weights; the reference is the model as it is.
        args: A `DPOConfig`, TRL's or the lab's, or a `TrainConfig`.
        data_collator: Refused: there is nothing to collate.
        train_dataset: A `datasets.Dataset` of preferences, rows, or `Preferences`.
        eval_dataset: The same, held out. Without it KL and samples are of training prompts.
        processing_class: The tokenizer, by default that of the model's name.
        compute_metrics: Refused: no logits are built.
        callbacks: `TrainerCallback`s, as classes or objects.
        optimizers: Refused, unless both are None.
        quantization_config: Refused.
        peft_config: A `LoraConfig`, for a new adapter.
        kl_samples: Answers drawn from the policy at each evaluation, to measure KL; 0 for none.
        sample_prompts: Prompts whose greedy answers are kept at each evaluation; 0 for none.
        max_new_tokens: Most tokens of an answer.
        output_dir: Where to write, if `args` is a `TrainConfig`.
        report_to: Trackers, if `args` is a `TrainConfig`: tensorboard, wandb, trackio, mlflow...

    Attributes:
        model: The policy.
        args: The arguments that callbacks read.
        state: transformers' `TrainerState`, with `log_history`.
        job: The prepared run.
        run: The run's folder, from `train` on.

    Raises:
        TypeError: If an argument is of a kind that the lab cannot take.
        ValueError: If an argument asks for what the lab does not do.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_subclass(cls)

    def __init__(
        self,
        model: str | nn.Module,
        ref_model: nn.Module | None = None,
        args: TrainingArguments | TrainConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Any = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        *,
        kl_samples: int | None = None,
        sample_prompts: int | None = None,
        max_new_tokens: int | None = None,
        output_dir: str | None = None,
        report_to: str | Sequence[str] | None = None,
    ):
        check_arguments(
            args,
            train_dataset,
            optimizers,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            quantization_config=quantization_config,
        )
        for callback in callbacks or ():
            check_callback(callback)
        measured = {
            "kl_samples": kl_samples,
            "sample_prompts": sample_prompts,
            "max_new_tokens": max_new_tokens,
        }
        measured = {name: value for name, value in measured.items() if value is not None}
        given = Given(
            model, ref_model, train_dataset, eval_dataset, processing_class, peft_config, measured
        )
        if isinstance(args, TrainConfig):
            self.job, self._measures = job_of_config(given, args), frozenset()
            folder = output_dir or "dpo"
            self.args = arguments_of(self.job.config, folder, report_to=report_to or "none")
        elif output_dir is not None or report_to is not None:
            raise ValueError("output_dir, report_to: args has its own. Set them there.")
        else:
            name = model if isinstance(model, str) else model.config._name_or_path
            self.args = args or DPOConfig(f"{Path(name).name}-DPO")
            self.job, self._measures = job_of_arguments(given, self.args)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.ref_model = ref_model
        self.processing_class = self.job.policy.tokenizer
        self.run: Run | None = None
        self.state, self.control = TrainerState(), TrainerControl()
        first = self.job.processes.first
        self.state.is_world_process_zero = self.state.is_local_process_zero = first
        self.is_in_train, self._flow = False, None
        self.callback_handler = self._handler(callbacks or ())
        self.callback_handler.on_init_end(self.args, self.state, self.control)

    def _handler(self, callbacks: Sequence[Any]) -> CallbackHandler:
        trackers = tracker_callbacks(self.args.report_to)
        shown = PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK
        everyone = [DefaultFlowCallback, *trackers, *callbacks, shown]
        return CallbackHandler(everyone, self.model, self.processing_class, None, None)

    @property
    def model(self) -> nn.Module:
        """The policy; a `PeftModel` under LoRA."""
        return self.job.policy.model

    def train(
        self,
        resume_from_checkpoint: bool | str | os.PathLike | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to the end, or until a callback stops.

        Args:
            resume_from_checkpoint: True to go on with the newest run in `output_dir`, or the folder
                of one of its checkpoints. Otherwise a new run begins, beside earlier ones.
            trial: Refused.
            ignore_keys_for_eval: Ignored.

        Returns:
            Steps, mean loss, and metrics.

        Raises:
            RuntimeError: If it was called before.
            ValueError: If the run cannot be resumed.
        """
        if trial is not None:
            raise ValueError("trial: the lab searches no settings here. Use 'dpo-lab sweep'.")
        if self._flow is not None:
            raise RuntimeError(
                "train: the policy has been trained already, and is not the reference any more. "
                "Make another trainer, to go on or to begin again."
            )
        job, output = self.job, Path(str(self.args.output_dir))
        resume = resume_from_checkpoint or False

        def folder() -> Path:
            output.mkdir(parents=True, exist_ok=True)
            run = run_to_resume(output, resume) if resume else new_run(output)
            open_or_create(run, job, resume=bool(resume))
            write_json(run.path / "arguments.json", self.args.to_dict())  # tokens left out
            return run.path

        self.run = Run(job.processes.from_first(folder))
        self._begin_state(output / STATE)
        control, started = RunControl(), time.time()
        self._flow = flow = Flow(
            *(job, self.args, self.state, self.control, self.callback_handler, control),
            save=self._keep,
            measures=self._measures,
        )
        self.is_in_train = True
        for _ in train(job, run=self.run, control=control, callbacks=[flow], rhythm=flow):
            pass
        self.is_in_train = False
        return self._finish(flow, started)

    def _begin_state(self, saved: Path) -> None:
        """The state at the step of the run's checkpoint, 0 in a new run."""
        assert self.run is not None
        step = int((noted_at_checkpoint(self.run.path) or {}).get("step", 0))
        if step and (former := history_until(saved, step)):
            for name in ("log_history", "best_metric", "best_global_step"):
                setattr(self.state, name, getattr(former, name))
            self.state.best_model_checkpoint = former.best_model_checkpoint
        plan = self.job.plan(self.job.config, len(self.job.train))
        self.state.max_steps = plan.total_steps
        self.state.num_train_epochs = int(-(-plan.epoch(plan.total_steps) // 1))
        self.state.train_batch_size = self.args.per_device_train_batch_size
        self.state.epoch = plan.epoch(step)
        self.state.compute_steps(self.args, plan.total_steps)

    def _keep(self, step: int) -> None:
        """Keep the run's checkpoint as one of transformers' folders."""
        if self.job.processes.first and self.run is not None:
            output = Path(str(self.args.output_dir))
            keep_checkpoint(self.run, output, self.state, self.args.save_total_limit)
            self.save_state()

    def _finish(self, flow: Flow, started: float) -> TrainOutput:
        """Log what the run took, bring back the best weights, tell the callbacks."""
        steps, job = self.state.global_step - flow.first_step, self.job
        plan = job.plan(job.config, len(job.train))
        shown = plan.shown(self.state.global_step) - plan.shown(flow.first_step)
        metrics = speed_metrics("train", started, num_samples=shown, num_steps=steps)
        metrics["train_loss"] = loss = flow.train_loss / max(steps, 1)
        flow.log(metrics)
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            load_weights(job.policy, Path(best))
        if job.processes.first and self.run is not None:
            self.run.finish({"outcome": None})
            self.save_state()
        flow.ended()
        if self.args.push_to_hub:
            self.push_to_hub()
        return TrainOutput(self.state.global_step, loss, metrics)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss, rewards and KL on held-out pairs, logged and passed to the callbacks.

        Args:
            eval_dataset: Other pairs than the trainer's own.
            ignore_keys: Ignored.
            metric_key_prefix: What keys begin with.

        Raises:
            ValueError: If there are no pairs to evaluate on.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        job, started = self.job, time.time()
        if eval_dataset is not None or (job.held_out is None and rows is not None):
            job = on_other_pairs(job, pairs_of(rows, "eval_dataset"))
        if job.held_out is None:
            raise ValueError("evaluate: there are no pairs to evaluate on. Give an eval_dataset.")
        values = measured(job, self.state.global_step)
        metrics = evaluation_logs(values, f"{metric_key_prefix}_")
        count = len(job.held_out)
        metrics |= speed_metrics(metric_key_prefix, started, num_samples=count)
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return {**metrics, "epoch": self.state.epoch}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to `state.log_history`, and report."""
        logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback."""
        check_callback(callback)
        self.callback_handler.add_callback(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Remove a callback, by class or object."""
        self.callback_handler.remove_callback(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> Any:
        """Remove a callback, and return it."""
        return self.callback_handler.pop_callback(callback)
