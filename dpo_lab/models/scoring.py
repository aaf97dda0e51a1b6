"""`LogpScorer`: log-probabilities of responses from a model and a batch of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from dpo_lab.data.batching import Batch, collate, token_budget_batches
from dpo_lab.data.packing import pack, packed_groups
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.kernels.chunked_stats import log_square_sums
from dpo_lab.kernels.tree_attention import BLOCK, tree_keywords
from dpo_lab.models.devices import resolve_precision
from dpo_lab.models.layouts import Layouts, reset_rotary, rotary_limit
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import Precision
from dpo_lab.models.output_head import Head, find_head
from dpo_lab.models.processes import ALONE, Processes
from dpo_lab.objective.weighting import length_weighted_logps

T = TypeVar("T")
SPARE: PromptResponse = ((0,), (0,))
"""What a process scores that has nothing to score while others do, and divides the weights."""


@dataclass(eq=False)
class LogpScorer:
    """Log-probabilities of the responses in a batch; `LogpScorer.probed(model)` makes one.

    The trunk runs on every token; the head runs only on the hidden states that predict a response
    token. Sequences are packed into prefix trees, so that no token is computed twice.

    Attributes:
        language_model: The model to score with.
        precision: `bfloat16` runs the trunk under autocast; the head is always float32.
        head: Turns the trunk's states into logits; without it the model is scored through its full
            logits: the same values, more slowly.
        layouts: Which batch layouts the model supports; None while that is being probed.
    """

    language_model: LanguageModel
    precision: str
    head: Head | None
    layouts: Layouts | None

    def __post_init__(self) -> None:
        config = self.language_model.base.config.get_text_config()
        self.device = self.language_model.device
        self.autocast = self.precision == "bfloat16"
        self.dtype = torch.bfloat16 if self.autocast else self.language_model.base.dtype
        self.sum_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.vocabulary = config.vocab_size
        self.rotary = rotary_limit(config)

    @classmethod
    def probed(
        cls, language_model: LanguageModel, precision: Precision = "float32", packing: bool = True
    ) -> LogpScorer:
        """A scorer for a model, which is probed first with arbitrary token ids.

        The probes check whether the logits are a plain head on the last hidden states, and whether
        packed sequences keep their values; if not, rows are padded, or run by length. Longer
        sequences are probed when they first occur. A model that accepts packed sequences keeps
        the tree attention that they need.

        Args:
            language_model: The model to score with.
            precision: Precision of the trunk.
            packing: Whether to pack if the model supports it; false always pads.

        Raises:
            ValueError: If the model is not causal.
        """
        resolved = resolve_precision(precision, language_model.device)
        scorer = cls(language_model, resolved, find_head(language_model), None)
        scorer.layouts = Layouts(scorer, packing)
        return scorer

    @property
    def packing(self) -> bool:
        """Whether sequences are packed, up to `layouts.window` tokens."""
        return self.layouts.packing

    def groups(self, items: Sequence[Sequence[PromptResponse]], budget: int) -> list[list[int]]:
        """Indices of the items in each micro-batch, within a budget of tokens.

        Args:
            items: Sequences that must stay together: one response, or the two of a pair.
            budget: Most tokens in a forward pass, padding included.
        """
        longest = [max(len(prompt) + len(response) for prompt, response in item) for item in items]
        if self.layouts.packs(max(longest, default=0)):
            return packed_groups(items, budget)
        return list(token_budget_batches(longest, budget, rows=max(map(len, items), default=1)))

    def batch(self, sequences: Sequence[PromptResponse]) -> Batch:
        """Sequences laid out for `states`, on the model's device; without any, `SPARE`."""
        sequences = sequences or [SPARE]
        longest = max(len(prompt) + len(response) for prompt, response in sequences)
        if self.layouts.packs(longest):
            batch = pack(sequences)
            if self.device.type == "cuda":  # whose kernels take whole blocks
                batch = batch.filled_up(BLOCK, self.language_model.encoder.pad_id)
        else:
            batch = collate(sequences, self.language_model.encoder.pad_id)
        return batch.to(self.device)

    def states(self, batch: Batch) -> Tensor:
        """The hidden state that predicts each scored token, as input of `logits`.

        If the model's weights are divided, this and what uses it is called inside `gathered`.

        Returns:
            `(tokens, width)`; or, for a model without a known head, logits `(tokens, vocabulary)`.

        Raises:
            ValueError: If the weights are divided and the model needs rows of one length.
        """
        base = self.language_model.base
        module = base if self.head is None else getattr(base, base.base_model_prefix)
        if batch.trees is None and self._apart(max(batch.lengths or (0,))):
            if self.language_model.shards:
                raise ValueError(
                    f"model {self.language_model.name!r}: is run on sequences of one length at a "
                    "time, which processes that divide its weights cannot do in step. Leave "
                    "--strategy out."
                )
            output = self._rows_of_one_length(module, batch)
        elif batch.trees is not None:
            output = self._run(
                module, batch.input_ids, **tree_keywords(batch.trees, batch.positions, self.dtype)
            )
        else:
            output = self._run(module, batch.input_ids)
        return output.flatten(0, 1).index_select(0, batch.source)

    def _apart(self, longest: int) -> bool:
        return self.layouts is not None and self.layouts.keeps_apart(longest)

    def _rows_of_one_length(self, module: nn.Module, batch: Batch) -> Tensor:
        """The module's output for rows run without padding, one length at a time, padded after."""
        width, outputs = batch.input_ids.shape[1], {}
        for length in sorted(set(batch.lengths)):
            rows = [row for row, row_length in enumerate(batch.lengths) if row_length == length]
            output = self._run(module, batch.input_ids[rows, :length])
            outputs |= zip(rows, nn.functional.pad(output, (0, 0, 0, width - length)), strict=True)
        return torch.stack([outputs[row] for row in range(len(outputs))])

    def _run(self, module: nn.Module, input_ids: Tensor, **layout) -> Tensor:
        if self.rotary != math.inf:
            reset_rotary(module)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            output = module(input_ids=input_ids, use_cache=False, **layout)
        return output.logits if self.head is None else output.last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Float32 logits of states, `(tokens, vocabulary)`; the caller keeps `tokens` small."""
        return states.float() if self.head is None else self.head.logits(states)

    def token_logps(self, batch: Batch, states: Tensor | None = None) -> Tensor:
        """Log-probability of each scored token, `(tokens,)`, nats, float32.

        Args:
            batch: The sequences to score.
            states: Their states, if already computed.
        """
        if states is None:
            return self.gathered(lambda: self.token_logps(batch, self.states(batch)))
        if self.head is None:
            log_probs = states.float().log_softmax(-1)
            return log_probs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        return self.head.token_logps(states, batch.targets, self.vocabulary)

    def logps(self, batch: Batch) -> Tensor:
        """`log pi(y|x)` of each response, `(responses,)`, nats: the sum over its tokens."""
        return batch.sums(self.token_logps(batch))

    def aligned_logps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`logps`, and how typical each response is of the model's own samples (for WPO).

        Returns:
            `(responses,)` each: `logps`, and the mean over tokens of
            `log p(y_t) - log sum_v p(v)^2`, detached.
        """
        return self.gathered(lambda: self._aligned_logps(batch, self.states(batch)))

    def _aligned_logps(self, batch: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
        token_logps = self.token_logps(batch, states)
        with torch.no_grad():
            squares = log_square_sums(
                lambda rows: self.logits(states[rows]), len(states), self.vocabulary, token_logps
            )
            lengths = batch.sums(torch.ones_like(token_logps))
            aligned = batch.sums(token_logps.detach() - squares) / lengths
        return batch.sums(token_logps), aligned

    def batches(
        self,
        sequences: Sequence[PromptResponse],
        token_budget: int,
        processes: Processes = ALONE,
    ) -> Iterator[tuple[list[int], Batch]]:
        """Sequences split into batches, each with the indices of the sequences in it.

        Args:
            sequences: Ids of prompts and responses.
            token_budget: Most tokens in a forward pass, padding included.
            processes: Those that divide the batches; only this one's are given. If they divide the
                weights as well, some get batches of `SPARE` without an index, to stay in step.
        """
        groups = self.groups([(sequence,) for sequence in sequences], token_budget)
        for indices in self.language_model.in_step(processes.mine(groups)):
            yield indices, self.batch([sequences[index] for index in indices])

    def gathered(self, work: Callable[[], T]) -> T:
        """What a function returns that calls `states` and what uses them; see `Shards.gathered`."""
        return self.language_model.gathered(work)

    def like(self, language_model: LanguageModel) -> LogpScorer:
        """A scorer for a copy of the model; it shares this scorer's layouts."""
        return replace(self, language_model=language_model, head=find_head(language_model))


@torch.no_grad()
def score_sequences(
    scorer: LogpScorer,
    sequences: Sequence[PromptResponse],
    token_budget: int = 4096,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes = ALONE,
) -> Tensor:
    """`log pi(y|x)` of many `(prompt, response)` sequences, without gradient.

    Args:
        scorer: The model's scorer.
        sequences: Ids of prompts and responses.
        token_budget: Most padded tokens in a forward pass.
        progress: Called with `(done, total)` sequences; of several processes, as if all had done as
            many as this one.
        processes: Those that divide the work.

    Returns:
        `(sequences,)`, nats, in order, on the CPU.
    """
    rows: list[int] = []
    values = torch.zeros(len(sequences), dtype=scorer.sum_dtype)
    for indices, batch in scorer.batches(sequences, token_budget, processes):
        values[indices] = scorer.logps(batch).cpu()[: len(indices)]
        rows += indices
        if progress:
            progress(min(len(rows) * processes.count, len(sequences)), len(sequences))
    return processes.joined(len(sequences), rows, values[rows])


def pair_logps(sequences: PairSequences, logps: Tensor, ld_alpha: float | None) -> Tensor:
    """Log-probabilities of pairs as the loss uses them, from those of all their sequences.

    Args:
        sequences: The sequences of the pairs.
        logps: `(sequences,)`, nats, in the order of `sequences.all`.
        ld_alpha: LD-DPO's weight of the longer response's excess tokens; None for plain sums.

    Returns:
        `(2, pairs)`, of chosen and rejected, nats.
    """
    whole = logps[: 2 * len(sequences)]
    if ld_alpha is not None and sequences.longer:
        longer = torch.tensor(sequences.longer, device=logps.device)
        cut = logps[2 * len(sequences) :]
        whole = whole.index_copy(0, longer, length_weighted_logps(whole[longer], cut, ld_alpha))
    return whole.view(2, -1)
