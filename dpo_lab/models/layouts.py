"""Which batch layout a model supports: packed, padded, or only rows of equal length.

Found by probing the model with arbitrary token ids at the lengths of the data: a layout must give
each sequence the log-probabilities that it gets alone.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import torch
from torch import Tensor

from dpo_lab.data.batching import Batch, collate
from dpo_lab.data.packing import pack
from dpo_lab.data.text_to_ids import PromptResponse
from dpo_lab.kernels.tree_attention import sliding_window, using_trees
from dpo_lab.models.loading import LanguageModel

logger = logging.getLogger(__name__)

TOLERANCE = {"float32": 5e-4, "bfloat16": 5e-2}
"""Largest difference in nats per token between layouts, by precision."""

_FIRST_PROBE = 23
"""Longest sequence, in tokens, of the first probe of every model."""


class Scoring(Protocol):
    """The part of `LogpScorer` that the probes use."""

    language_model: LanguageModel
    device: torch.device
    precision: str
    vocabulary: int

    def token_logps(self, batch: Batch) -> Tensor:
        """Log-probability of each scored token."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each response."""


class Layouts:
    """The layouts that a model supports by sequence length; longer lengths are probed on first use.

    Attributes:
        packing: Whether sequences are packed into prefix trees.
        window: Longest sequence that is packed.
        apart: Whether rows of different lengths are run separately, because padding changes the
            model's values.

    Raises:
        ValueError: If the model is not causal, or has too few positions.
    """

    def __init__(self, scorer: Scoring, packing: bool):
        self.scorer, self.packing, self.apart = scorer, packing, False
        self.model = scorer.language_model
        config = self.model.base.config.get_text_config()
        self.rotary = rotary_limit(config)
        self.window = min(sliding_window(config), self.rotary)
        self.positions = getattr(config, "max_position_embeddings", None) or math.inf
        self.probed = 0
        self._try(min(_FIRST_PROBE, self.positions, self.rotary), 4)

    def packs(self, longest: int) -> bool:
        """Whether sequences of up to `longest` tokens are packed."""
        if longest > self.probed:
            self._try(longest, 2)
        return self.packing and longest <= self.window

    def keeps_apart(self, longest: int) -> bool:
        """Whether rows of different lengths, up to `longest` tokens, are run separately."""
        return self.apart or longest > self.rotary

    @torch.no_grad()
    def _try(self, longest: int, count: int) -> None:
        sequences = probe_sequences(longest, self.scorer.vocabulary)[:count]
        probed, self.probed, made_for = self.probed, longest, self.positions
        try:
            every = [self._alone(sequence) for sequence in sequences]
        except (IndexError, RuntimeError) as error:
            if not probed and longest <= made_for and isinstance(error, RuntimeError):
                raise ValueError(
                    f"model {self.model.name!r}: a pass over {longest} tokens fails in "
                    f"{self.scorer.precision} ({_first_line(error)}). Give another precision, or "
                    "another model."
                ) from error
            raise ValueError(
                f"model {self.model.name!r}: cannot take a sequence of {longest} tokens "
                f"({_first_line(error)}); it is made for {made_for}. Give a smaller "
                "max_length."
            ) from error
        if longest > self.positions and self.rotary == math.inf:
            self.positions = math.inf  # warn once
            logger.warning(
                "%s: sequences of up to %d tokens, and the model is made for %d.",
                *(self.model.name, longest, made_for),
            )
        same = len(sequences[0][0]) - 1
        difference = (every[0][:same] - every[1][:same]).abs().max().item()
        if longest <= self.rotary and difference > TOLERANCE[self.scorer.precision]:
            raise ValueError(
                f"model {self.model.name!r}: its log-probabilities change by {difference:.1e} nats "
                "with later tokens, so log pi(y|x) has no meaning. Use a causal model, or set "
                "is_decoder in the configuration if it was trained as a causal model."
            )
        alone = [logps[-len(y) :].sum() for logps, (_, y) in zip(every, sequences, strict=True)]
        with using_trees(self.model.base) as accepted:
            self._compare(sequences, torch.stack(alone), longest, accepted, probed)

    def _alone(self, sequence: PromptResponse) -> Tensor:
        """Log-probability of each token after the first, with the sequence run alone."""
        ids = (*sequence[0], *sequence[1])
        return self.scorer.token_logps(collate([(ids[:1], ids[1:])], 0).to(self.scorer.device))

    def _compare(self, sequences, alone: Tensor, longest: int, accepted, probed: int) -> None:
        """Compare padded and packed rows with each sequence alone, and set the layout."""
        length = max(len(response) for _, response in sequences)
        tolerance, name = TOLERANCE[self.scorer.precision], self.model.name

        def difference(batch) -> float:
            together = self.scorer.logps(batch.to(self.scorer.device))
            return (together - alone).abs().max().item() / length

        if not self.keeps_apart(longest):
            padded = difference(collate(sequences, self.model.encoder.pad_id))
            if padded > tolerance:
                self.apart = True
                logger.warning(
                    "%s: scores sequences of one length at a time, because padding changes its "
                    "log-probabilities by %.1e nats per token.",
                    *(name, padded),
                )
        if not self.packing or (probed and longest > self.window):
            return
        reason = None if accepted else "its attention cannot be replaced"
        if accepted:
            try:
                packed = difference(pack(sequences))
                if not packed <= tolerance:
                    reason = f"log-probabilities differ by {packed:.1e} nats per token"
            except (TypeError, ValueError, RuntimeError) as error:  # CannotPack among them
                reason = _first_line(error)
        if reason is None:
            accepted.keep()
        elif probed:
            self.window = probed
            logger.warning(
                "%s: sequences above %d tokens are padded, not packed (%s).", name, probed, reason
            )
        else:
            self.packing = False
            logger.warning("%s: sequences are padded, not packed (%s).", name, reason)


def rotary_limit(config) -> float:
    """Longest sequence up to which rotary frequencies do not depend on length; infinite if never.

    Beyond it, dynamic NTK and longrope take the frequencies of a whole pass from its last position.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    limits = []
    for rope in [parameters, *(value for value in parameters.values() if isinstance(value, dict))]:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings")
            limits.append(original or config.max_position_embeddings)
    return min(limits, default=math.inf)


@torch.no_grad()
def reset_rotary(model: torch.nn.Module) -> None:
    """Reset the longest sequence seen, whose frequencies dynamic NTK would keep using."""
    for module in model.modules():
        attributes = vars(module) | dict(module.named_buffers(recurse=False))
        for name, value in attributes.items():
            if name.endswith("original_inv_freq"):
                getattr(module, name.replace("original_", "")).copy_(value)
            elif name.endswith("max_seq_len_cached"):
                setattr(module, name, module.original_max_seq_len)


def probe_sequences(longest: int, vocabulary: int) -> list[PromptResponse]:
    """Two prompts with two responses each, some of which share a prefix.

    Args:
        longest: Tokens of the longest sequence, prompt and response; at least 8.
        vocabulary: Number of token ids.
    """
    ids = [(7 * place * place + 3 * place) % vocabulary for place in range(2 * longest)]
    third, half = longest // 3, longest // 2
    first, second, rest = ids[:third], ids[third : third + 5], ids[third + 5 :]
    sequences = [
        (first, rest[: longest - third]),
        (first, rest[half : half + half // 2]),
        (second, rest[half : longest - 2]),
        (second, rest[half : half + 3] + rest[: half // 3]),
    ]
    return [(tuple(prompt), tuple(response)) for prompt, response in sequences]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
