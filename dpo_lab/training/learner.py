"""One optimiser step: gradient of the loss over a batch, checks, update; and its checkpoint."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dpo_lab.data.batching import Batch, integers
from dpo_lab.data.encoding import Ids
from dpo_lab.data.quoting import shortened
from dpo_lab.kernels.lean_layers import LeanLayers
from dpo_lab.kernels.memory import keep_freed_memory, peak_memory
from dpo_lab.kernels.threads import is_small
from dpo_lab.models.loading import load_weights, save_model
from dpo_lab.models.tails import Tails
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import loss_and_grads
from dpo_lab.objective.weighting import wpo_weights
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.metrics import pair_metrics
from dpo_lab.training.records import StepRecord
from dpo_lab.training.schedule import schedule_factor
from dpo_lab.training.setup import Job, pair_order
from dpo_lab.training.start import at_start

NO_STATE = (
    OSError, EOFError, RuntimeError, UnpicklingError, ValueError, TypeError, LookupError,
    AttributeError,
)  # fmt: skip
"""What a file that is no state of an optimiser raises when it is read as one."""

Sequences = list[tuple[Ids, Ids]]


class NonFiniteLoss(RuntimeError):
    """The loss, its gradient or a weight is not a finite number."""


class Learner:
    """Policy, optimiser and schedule: what one step needs, and what a checkpoint must hold."""

    def __init__(self, job: Job):
        self.job = job
        self.config = job.config
        self.loss = job.config.loss_function
        self.beta, self.peak = job.config.beta, job.config.learning_rate
        self.step = 0
        self._new_peak: float | None = None
        self.total_steps = job.config.total_steps(len(job.train))
        train = job.train
        self._known = torch.stack(
            [train.reference_chosen, train.reference_rejected, *train.lengths]
        )
        self.order = pair_order(job.config, len(job.train))
        processes = PartialState(cpu=job.policy.device.type == "cpu").num_processes
        if processes > 1:
            raise ValueError(
                f"{processes} processes: this loop runs in one for now. "
                "Start it without 'accelerate launch'."
            )
        if job.policy.device.type == "cpu":
            keep_freed_memory()
        self.parameters = [p for p in job.policy.model.parameters() if p.requires_grad]
        # A small model's time goes into calls, and these are more of them.
        plain = job.scorer.autocast or is_small(job.policy.model)
        self.lean = nullcontext if plain else LeanLayers(job.policy.model)
        self.optimizer = _optimizer(self.config, self.parameters)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        warmup = self.config.warmup(self.total_steps)
        kind, total = self.config.schedule, self.total_steps
        return self.peak * schedule_factor(kind, min(self.step, total - 1), warmup, total)

    def change(self, changes: dict[str, float]) -> None:
        """Take new values of beta and the peak learning rate."""
        self.beta = changes.get("beta", self.beta)
        if "learning_rate" in changes:
            self.peak = self._new_peak = changes["learning_rate"]

    def start_record(self) -> StepRecord:
        """The record of step 0, before any metric."""
        return StepRecord(0, 0.0, 0, self.beta, self.learning_rate, {})

    def take_step(self) -> StepRecord:
        """One optimiser step over `batch_pairs` pairs, or over those that are left for the last.

        Raises:
            NotTheReference: In step 1, if a log-ratio is not zero.
            NonFiniteLoss: Before the weights are touched.
        """
        started, processor = time.perf_counter(), time.process_time()
        beta, learning_rate = self.beta, self.learning_rate
        indices = self.order.batch(self.step)
        losses, pairs, weights, tokens = self.accumulate(indices)
        grad_norm = clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if self.step == 0:
            pairs = at_start(pairs, self.config.precision)
        values = {"pairs": len(indices)} | pair_metrics(losses, pairs, weights, beta)
        values["grad_norm"] = grad_norm.item()
        self._check_finite(values)
        if self._new_peak is not None:
            values["change/learning_rate"], self._new_peak = self._new_peak, None
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        seen = self.order.shown(self.step)
        seconds = time.perf_counter() - started
        timing = {
            "seconds": seconds,
            "processor_seconds": time.process_time() - processor,
            "pairs_per_second": len(indices) / seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_gb": peak_memory(self.job.policy.device),
        }
        epoch = seen / len(self.job.train)
        return StepRecord(self.step, epoch, seen, beta, learning_rate, values, timing)

    def accumulate(self, indices: list[int]) -> tuple[Tensor, PairLogps, Tensor, int]:
        """Add the gradient of a batch's mean loss to the weights', a micro-batch at a time.

        Args:
            indices: The batch's pairs.

        Returns:
            Losses, log-probabilities and gradient weights of the pairs, in the order of
            `micro_batches`, and their tokens.
        """
        micro_batches = self.micro_batches(indices)
        known = self._known.index_select(1, integers(sum(micro_batches, [])))
        sizes = list(map(len, micro_batches))
        mean_tokens, options = known[2].mean().item(), self.config.loss_options
        ahead = None
        if self.loss.couples_pairs and len(micro_batches) > 1:
            # What a pair's value is hangs on pairs of other micro-batches: look at all of them,
            # then go through them again with what each has to push.
            pairs = PairLogps(*self._logps(micro_batches), *known, mean_tokens)
            losses, slopes = loss_and_grads(self.loss, pairs, self.beta, **options)
            ahead = zip(losses.split(sizes), slopes.split(sizes, dim=1), strict=True)
        parts, tokens = [], 0
        for group, references in zip(micro_batches, known.split(sizes, dim=1), strict=True):
            sequences = self._sequences(group)
            batch = self.job.scorer.batch(sequences)
            with self.lean():
                policy, wpo = self._forward(batch, sequences)
                policy.retain_grad()
                values = policy.cpu().split(len(group))
                if ahead is None:
                    pairs = PairLogps(*values, *references, mean_tokens)
                    loss = pushed = self.loss(pairs, self.beta, **options)
                else:
                    loss, slopes = next(ahead)
                    pushed = slopes[0] * values[0] + slopes[1] * values[1]
                weight = torch.ones_like(loss) if wpo is None else wpo
                pushed.backward(weight / len(indices))
            push = policy.grad[: len(group)].cpu() * (-len(indices) / self.beta)
            parts.append(torch.stack([loss * weight, *values, push]).detach())
            tokens += batch.real_tokens
        losses, chosen, rejected, weights = torch.cat(parts, dim=1)
        return losses, PairLogps(chosen, rejected, *known, mean_tokens), weights, tokens

    def micro_batches(self, indices: list[int]) -> list[list[int]]:
        """The pairs of a batch that go through the model together."""
        items = list(map(self._item, indices))
        groups = self.job.scorer.groups(items, self.config.micro_batch_tokens)
        return [[indices[place] for place in group] for group in groups]

    def _sequences(self, group: list[int]) -> Sequences:
        """The chosen responses of some pairs, then the rejected, each with its prompt."""
        chosen, rejected = zip(*map(self._item, group), strict=True)
        return [*chosen, *rejected]

    def _item(self, index: int) -> tuple[tuple[Ids, Ids], tuple[Ids, Ids]]:
        pair = self.job.train.tokens[index]
        return (pair.prompt, pair.chosen), (pair.prompt, pair.rejected)

    def _forward(self, batch: Batch, sequences: Sequences) -> tuple[Tensor, Tensor | None]:
        """The policy's log-probabilities, and the weight of each pair where pairs are weighed."""
        tails = Tails.of(sequences, self.config.ld_alpha)
        if not self.config.use_weighting:
            return self.job.scorer.logps(batch, tails), None
        logps, aligned = self.job.scorer.aligned_logps(batch, tails)
        return logps, wpo_weights(*aligned.view(2, -1)).cpu()

    @torch.no_grad()
    def _logps(self, micro_batches: list[list[int]]) -> Tensor:
        """The policy's log-probabilities of the whole batch, `(2, pairs)`, without gradient."""
        parts = []
        for sequences in map(self._sequences, micro_batches):
            policy, _ = self._forward(self.job.scorer.batch(sequences), sequences)
            parts.append(policy.view(2, -1).cpu())
        return torch.cat(parts, dim=1)

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
        if bad:
            raise NonFiniteLoss(
                f"step {self.step + 1}: {bad[0]} is {values[bad[0]]} at beta {self.beta:g} and "
                f"learning rate {self.learning_rate:g}. The weights are those of step {self.step}; "
                "go on from the last checkpoint with a lower learning rate (--resume --lr)."
            )

    def check_weights(self) -> None:
        """Refuse weights that nothing can go on from.

        Raises:
            NonFiniteLoss: If one that is trained is no finite number, or the gradient that they now
                give a micro-batch of the last pairs is not.
        """
        broken = int(sum((~p.detach().isfinite()).sum() for p in self.parameters))
        what = f"{broken} weights are no finite numbers"
        if not broken:
            indices = self.order.batch(max(self.step, 1) - 1)
            self.accumulate(self.micro_batches(indices)[0])
            broken = not clip_grad_norm_(self.parameters, math.inf).isfinite()
            what = "the gradient is no finite number"
            self.optimizer.zero_grad()
        if broken:
            raise NonFiniteLoss(
                f"step {self.step}: after it {what}, at beta {self.beta:g} and peak learning rate "
                f"{self.peak:g}. The last checkpoint is from before; go on from it with a lower "
                "learning rate (--resume --lr)."
            )

    def save(self, folder: Path) -> None:
        """Write a checkpoint's files.

        Raises:
            NonFiniteLoss: If the weights are no numbers to go on from.
            OSError: If the disk does not take them.
        """
        self.check_weights()
        state = {
            "step": self.step,
            "beta": self.beta,
            "peak": self.peak,
            "new_peak": self._new_peak,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        try:
            save_model(self.job.policy, folder)
            torch.save(state, folder / "trainer.pt")
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:120]
            raise OSError(
                f"{folder.parent}: a checkpoint of step {self.step} cannot be written ({reason}). "
                "The one before it is whole; make room, and go on from it with --resume."
            ) from error

    def load(self, folder: Path) -> None:
        """Take up a checkpoint.

        Raises:
            ValueError: If its weights or its optimiser's state are not those of this run.
        """
        load_weights(self.job.policy, folder)
        try:
            state = torch.load(folder / "trainer.pt", weights_only=True)
            self.step, self.beta = state["step"], state["beta"]
            # Earlier versions kept the peak with a scheduler's state, and no change that waits.
            self.peak = state["peak"] if "peak" in state else state["schedule"]["peak"][0]
            self._new_peak = state.get("new_peak")
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
        except NO_STATE as error:
            reason = shortened(str(error) or type(error).__name__, 120)
            raise ValueError(
                f"{folder / 'trainer.pt'}: holds no state of this run ({reason}). Remove the "
                f"folder {folder.name}, and a resumed run is computed again from its beginning."
            ) from error


def _optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.learning_rate)
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
