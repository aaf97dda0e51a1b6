"""Distribution of reward margins during training: the same pairs, scored at several steps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dpo_lab.data.preferences import Preferences
from dpo_lab.data.tokenized_pairs import TokenizedPairs
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.training.callbacks import Callback
from dpo_lab.training.evaluation import logps_of
from dpo_lab.training.job import Job
from dpo_lab.training.metrics import ROUNDING
from dpo_lab.training.records import StepRecord
from dpo_lab.training.setup import tokenize


class MarginHistory(Callback):
    """Callback that records the reward margins of the same pairs at several steps of a run.

    Pass it as `train(job, callbacks=[history])`. The policy scores the pairs after each of the
    steps; the reference scores them once. Without evaluations (`eval_every=0`), prepare the job
    with `keep_reference=True`. A run that starts over clears the history; a run that resumes from
    a checkpoint keeps the steps up to the checkpoint.

    Each step uses the beta of its record. The step at which a run starts or resumes is scored
    before there is a record, and uses the beta of the next one.

    Args:
        preferences: The pairs; held-out ones show what was learned, training ones what was fitted.
        steps: Steps after which to score; 0 is the start.

    Attributes:
        steps: The steps scored so far.

    Raises:
        ValueError: If no step is given.
    """

    def __init__(self, preferences: Preferences, steps: Iterable[int]):
        self._preferences, self._asked = preferences, frozenset(steps)
        if not self._asked or min(self._asked) < 0:
            raise ValueError(
                f"steps={sorted(self._asked)}: name at least one step, from 0 on. "
                "range(0, 301, 25) scores every 25 steps."
            )
        self.steps: list[int] = []
        self._margins: list[Tensor] = []
        self._betas: list[float | None] = []
        self._job: Job | None = None
        self._tokens: TokenizedPairs | None = None
        self._reference: Tensor | None = None

    @property
    def margins(self) -> Tensor:
        """Margins, `(steps, pairs)`, nats.

        Raises:
            ValueError: If no step has been scored yet.
        """
        if not self._margins:
            raise ValueError(
                "no step was scored yet, so there are no margins. Pass the history to train as a "
                "callback, and run it."
            )
        return torch.stack(self._margins)

    @property
    def reward_margins(self) -> Tensor:
        """Beta x margin, `(steps, pairs)`, with the beta of each step.

        Raises:
            ValueError: If no step has been scored yet.
        """
        betas = [self._job.live.beta if beta is None else beta for beta in self._betas]
        return self.margins * torch.tensor(betas)[:, None]

    @property
    def share_below_zero(self) -> Tensor:
        """Share of pairs with a margin below 0, `(steps,)`: those that the run ranks wrongly.

        Below by more than float32 rounding, so that the share is 0 at the start.
        """
        return (self.margins < -ROUNDING).double().mean(dim=1)

    def histogram(self, bins: int = 60) -> tuple[Tensor, Tensor]:
        """Number of pairs per bin of reward margin, at each step.

        Args:
            bins: Number of bins of equal width over the margins of all steps; 0 is an edge.

        Returns:
            Edges, `(bins + 1,)` or a few more; and counts, `(steps, bins)`. Each row of counts sums
            to the number of pairs.

        Raises:
            ValueError: If `bins` is below 1, or no step has been scored yet.
        """
        if bins < 1:
            raise ValueError(f"bins={bins}: no pair can be counted in no bin. Give bins >= 1.")
        margins = self.reward_margins.double()
        low, high = min(margins.min().item(), -1e-3), max(margins.max().item(), 1e-3)
        width = (high - low) / bins
        below, above = -int(low // width), int(high // width) + 1
        edges = torch.arange(-below, above + 1, dtype=torch.float64) * width
        indices = (margins / width).floor().long().clamp(-below, above - 1) + below
        counts = torch.zeros(len(margins), below + above, dtype=torch.float64)
        return edges, counts.scatter_add_(1, indices, torch.ones_like(margins))

    def on_start(self, job: Job, first_step: int, total_steps: int) -> None:
        """Score with the reference and, if its step was asked for, with the initial policy."""
        self._forget(job, first_step)
        self._job = job
        self._tokens = tokenize(
            job.config, self._preferences, job.policy.tokenizer, job.policy.encoder.vocabulary
        )
        with job.reference.active() as scorer:
            self._reference = self._margins_of(scorer)
        if first_step in self._asked and first_step not in self.steps:
            self._score(first_step, None)

    def on_step(self, record: StepRecord) -> None:
        """Score with the policy, if this step was asked for."""
        self._betas = [record.beta if beta is None else beta for beta in self._betas]
        if record.step in self._asked and record.step not in self.steps:
            self._score(record.step, record.beta)

    def _forget(self, job: Job, first_step: int) -> None:
        """Drop the steps of another run, and those that this run will repeat."""
        resumed = first_step > 0 and self._job and self._job.fingerprint == job.fingerprint
        kept = [index for index, step in enumerate(self.steps) if resumed and step <= first_step]
        for values in (self.steps, self._margins, self._betas):
            values[:] = [values[index] for index in kept]

    def _score(self, step: int, beta: float | None) -> None:
        self._margins.append(self._margins_of(self._job.scorer) - self._reference)
        self._betas.append(beta)
        self.steps.append(step)

    def _margins_of(self, scorer: LogpScorer) -> Tensor:
        """`log pi(y_w|x) - log pi(y_l|x)` of each pair, `(pairs,)`, nats, as used by the loss."""
        chosen, rejected = logps_of(self._job, scorer, self._tokens.pairs)
        return chosen - rejected
