"""Model and batch to log-probabilities, through the head that never holds the logits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpo_lab.data.batching import Batch, collate, token_budget_batches
from dpo_lab.data.packing import pack, packed_groups
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.kernels.chunked_stats import log_square_sums
from dpo_lab.kernels.grad_buffers import adds_in_place
from dpo_lab.kernels.head import head_logits, linear_token_logps, module_token_logps
from dpo_lab.kernels.tree_attention import tree_keywords
from dpo_lab.models.layouts import Layouts, reset_rotary, rotary_limit
from dpo_lab.models.loading import LanguageModel, Precision, resolve_precision
from dpo_lab.objective.weighting import length_weighted_logps

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3
"""Largest difference of logits, in their standard deviations, between model and trunk with head."""


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits.

    Attributes:
        module: The model's output layer.
        scale: Factor on its output.
        softcap: Bound of the soft cap on its output, if any.
    """

    module: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @property
    def linear(self) -> bool:
        """Whether it is one plain linear layer: no adapter, no trainable copy."""
        return type(self.module) is nn.Linear

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits, `(tokens, vocabulary)`."""
        if self.linear:
            weight, bias = self.module.weight, self.module.bias
            return head_logits(hidden, weight, bias, self.scale, self.softcap)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.module(hidden.to(self.module.weight.dtype)).float() * self.scale
            return (
                logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
            )

    def token_logps(self, hidden: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
        """Log-probability of each target, `(tokens,)`, nats."""
        if self.linear:
            return linear_token_logps(
                hidden,
                self.module.weight,
                targets,
                bias=self.module.bias,
                scale=self.scale,
                softcap=self.softcap,
                in_place=adds_in_place(self.module.weight),
            )
        return module_token_logps(hidden, self.logits, targets, vocabulary=vocabulary)


class LogpScorer:
    """Log-probabilities of the responses in a batch.

    The trunk runs on every token; the head runs only on the hidden states that predict a response
    token. A model whose logits are not a plain head on its last hidden states is found out by a
    probe and scored through its full logits instead, more slowly and just as right.

    Sequences are packed into prefix trees, so that no token is computed twice. A model that gives
    them other values so is found out by another probe, and gets padded rows, or rows of one length.

    Args:
        language_model: The model to score with.
        precision: `bfloat16` runs the trunk under autocast; the head is float32 either way.
        packing: Whether to pack; false pads.
        layouts: What is known already of how its sequences may lie together, of a model that it is
            a copy of; by default it is found out.

    Raises:
        ValueError: If the model is not causal.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        precision: Precision = "float32",
        packing: bool = True,
        layouts: Layouts | None = None,
    ):
        self.language_model = language_model
        self.device = language_model.device
        self.precision = resolve_precision(precision, self.device)
        self.autocast = self.precision == "bfloat16"
        self.dtype = torch.bfloat16 if self.autocast else language_model.base.dtype
        config = language_model.base.config.get_text_config()
        self.vocabulary = config.vocab_size
        self.rotary = rotary_limit(config)
        self.head = self._find_head(config)
        self.layouts = layouts
        if layouts is None:  # found out with this scorer itself
            self.layouts = Layouts(self, packing)

    @property
    def packing(self) -> bool:
        """Whether sequences are packed, those that are not too long for it."""
        return self.layouts.packing

    def groups(self, items: Sequence[Sequence[PromptResponse]], budget: int) -> list[list[int]]:
        """Indices of items that make a micro-batch each, within a budget of tokens.

        Args:
            items: Sequences that belong together: one response, or the two of a pair.
            budget: Most tokens in a forward pass, padding included.
        """
        longest = [max(len(prompt) + len(response) for prompt, response in item) for item in items]
        if self.layouts.packs(max(longest, default=0)):
            return packed_groups(items, budget)
        return list(token_budget_batches(longest, budget, rows=max(map(len, items), default=1)))

    def batch(self, sequences: Sequence[PromptResponse]) -> Batch:
        """Sequences laid out for `states`, on the model's device."""
        longest = max(len(prompt) + len(response) for prompt, response in sequences)
        if self.layouts.packs(longest):
            batch = pack(sequences)
        else:
            batch = collate(sequences, self.language_model.encoder.pad_id)
        return batch.to(self.device)

    def states(self, batch: Batch) -> Tensor:
        """What `logits` needs of each scored token: the hidden state that predicts it.

        Returns:
            `(tokens, width)`; where trunk and head cannot be told apart, `(tokens, vocabulary)`.
        """
        base = self.language_model.base
        module = base if self.head is None else getattr(base, base.base_model_prefix)
        if batch.lengths and self._apart(max(batch.lengths)):
            found = self._rows_of_one_length(module, batch)
        elif batch.trees is not None:
            found = self._run(
                module, batch.input_ids, **tree_keywords(batch.trees, batch.positions, self.dtype)
            )
        else:
            found = self._run(module, batch.input_ids)
        return found.flatten(0, 1).index_select(0, batch.source)

    def _apart(self, longest: int) -> bool:
        return self.layouts is not None and self.layouts.keeps_apart(longest)

    def _rows_of_one_length(self, module: nn.Module, batch: Batch) -> Tensor:
        """What the module gives rows without their padding, padded again."""
        width, rows = batch.input_ids.shape[1], {}
        for length in sorted(set(batch.lengths)):
            places = [row for row, own in enumerate(batch.lengths) if own == length]
            found = self._run(module, batch.input_ids[places, :length])
            rows |= zip(places, nn.functional.pad(found, (0, 0, 0, width - length)), strict=True)
        return torch.stack([rows[row] for row in range(len(rows))])

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
            batch: What to score.
            states: Its states, where they are known already.
        """
        states = self.states(batch) if states is None else states
        if self.head is None:
            log_probs = states.float().log_softmax(-1)
            return log_probs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        return self.head.token_logps(states, batch.targets, self.vocabulary)

    def logps(self, batch: Batch) -> Tensor:
        """`log pi(y|x)` of each response, `(responses,)`, nats: the sum over its tokens."""
        return batch.sums(self.token_logps(batch))

    def aligned_logps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and how much each response looks like one of the model's own.

        Returns:
            `(responses,)` each: `logps`, and the mean over tokens of
            `log p(y_t) - log sum_v p(v)^2`, without gradient, which is WPO's.
        """
        states = self.states(batch)
        token_logps = self.token_logps(batch, states)
        with torch.no_grad():
            squares = log_square_sums(
                lambda rows: self.logits(states[rows]), len(states), self.vocabulary, token_logps
            )
            lengths = batch.sums(torch.ones_like(token_logps))
            aligned = batch.sums(token_logps.detach() - squares) / lengths
        return batch.sums(token_logps), aligned

    def batches(
        self, sequences: Sequence[PromptResponse], token_budget: int
    ) -> Iterator[tuple[list[int], Batch]]:
        """All of many sequences in forward passes, each with the indices of those in it.

        Args:
            sequences: Ids of prompts and responses.
            token_budget: Most tokens in a forward pass, padding included.
        """
        for indices in self.groups([(sequence,) for sequence in sequences], token_budget):
            yield indices, self.batch([sequences[index] for index in indices])

    def like(self, language_model: LanguageModel) -> LogpScorer:
        """A scorer of the same kind for a copy of the model; what either lays out fits both."""
        return LogpScorer(language_model, self.precision, layouts=self.layouts)

    def _find_head(self, config) -> Head | None:
        base = self.language_model.base
        module = base.get_output_embeddings()
        if module is None or not hasattr(base, base.base_model_prefix):
            return self._no_head("it names no trunk or no output layer")
        scale = _factor(config, "logit_scale") / _factor(config, "logits_scaling")
        head = Head(module, scale, getattr(config, "final_logit_softcapping", None))
        try:
            difference = self._probe(base, head)
        except RuntimeError:  # the states do not have the width of the head
            return self._no_head("what its trunk gives does not fit its head")
        if not difference <= PROBE_TOLERANCE:
            return self._no_head(f"trunk and head give other logits, by {difference:.1e}")
        return head

    @torch.no_grad()
    def _probe(self, base: nn.Module, head: Head) -> float:
        """Relative difference between the model's own logits and the head on the trunk's states."""
        ids = torch.arange(PROBE_TOKENS, device=self.device) % self.vocabulary
        own = base(input_ids=ids[None], use_cache=False).logits[0].float()
        trunk = getattr(base, base.base_model_prefix)
        ours = head.logits(trunk(input_ids=ids[None], use_cache=False).last_hidden_state[0])
        if own.shape != ours.shape:
            return float("inf")
        return ((own - ours).abs().max() / own.std().clamp_min(1e-6)).item()

    def _no_head(self, reason: str) -> None:
        logger.warning(
            "%s: %s; scoring through the full logits, which takes more memory.",
            self.language_model.name,
            reason,
        )


def _factor(config, name: str) -> float:
    """A factor on the logits that a configuration names; 1 if it names none."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else 1.0


@torch.no_grad()
def score_sequences(
    scorer: LogpScorer,
    sequences: Sequence[PromptResponse],
    token_budget: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`log pi(y|x)` of many `(prompt, response)` sequences, without gradient.

    Args:
        scorer: The model's scorer.
        sequences: Ids of prompts and responses.
        token_budget: Most padded tokens in a forward pass.
        progress: Called with `(done, total)` sequences.

    Returns:
        `(sequences,)`, nats, in order, on the CPU.
    """
    values, done = torch.zeros(len(sequences)), 0
    for indices, batch in scorer.batches(sequences, token_budget):
        values[indices] = scorer.logps(batch).cpu()
        done += len(indices)
        if progress:
            progress(done, len(sequences))
    return values


def pair_logps(sequences: PairSequences, logps: Tensor, ld_alpha: float | None) -> Tensor:
    """Log-probabilities of pairs as their loss sees them, from those of all their sequences.

    Args:
        sequences: Of the pairs.
        logps: `(sequences,)`, nats, in the order of `sequences.all`.
        ld_alpha: LD-DPO's weight of what the longer response has more; none for plain sums.

    Returns:
        `(2, pairs)`, of chosen and rejected, nats.
    """
    whole = logps[: 2 * len(sequences)]
    if ld_alpha is not None and sequences.longer:
        places = torch.tensor(sequences.longer, device=logps.device)
        cut = logps[2 * len(sequences) :]
        whole = whole.index_copy(0, places, length_weighted_logps(whole[places], cut, ld_alpha))
    return whole.view(2, -1)
