"""The output head of a model (hidden states to logits): found, and checked by a probe."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpo_lab.kernels.grad_buffers import adds_in_place
from dpo_lab.kernels.head import head_logits, linear_token_logps, module_token_logps
from dpo_lab.models.loading import LanguageModel

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3
"""Largest difference between the model's logits and head(trunk), in standard deviations of them."""


@dataclass(frozen=True)
class Head:
    """The output head: turns hidden states into logits.

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


def find_head(language_model: LanguageModel) -> Head | None:
    """The head of a model, if its logits are a plain head on its trunk's last hidden states.

    Checked on a few ids; returns None with a warning otherwise.
    """
    base = language_model.base
    module = base.get_output_embeddings()
    if module is None or not hasattr(base, base.base_model_prefix):
        return _no_head(language_model, "it has no named trunk or output layer")
    config = base.config.get_text_config()
    scale = _factor(config, "logit_scale") / _factor(config, "logits_scaling")
    head = Head(module, scale, getattr(config, "final_logit_softcapping", None))
    try:
        difference = _difference(language_model, head)
    except RuntimeError:  # the states do not have the width of the head
        return _no_head(language_model, "its trunk's states do not fit its head")
    if not difference <= PROBE_TOLERANCE:
        return _no_head(language_model, f"head(trunk) differs from its logits by {difference:.1e}")
    return head


@torch.no_grad()
def _difference(language_model: LanguageModel, head: Head) -> float:
    """Relative difference between the model's own logits and the head on the trunk's states."""
    base = language_model.base
    vocabulary = base.config.get_text_config().vocab_size
    ids = torch.arange(PROBE_TOKENS, device=language_model.device) % vocabulary
    expected = base(input_ids=ids[None], use_cache=False).logits[0].float()
    trunk = getattr(base, base.base_model_prefix)
    actual = language_model.gathered(
        lambda: head.logits(trunk(input_ids=ids[None], use_cache=False).last_hidden_state[0])
    )
    if expected.shape != actual.shape:
        return float("inf")
    return ((expected - actual).abs().max() / expected.std().clamp_min(1e-6)).item()


def _no_head(language_model: LanguageModel, reason: str) -> None:
    logger.warning(
        "%s: %s; scoring through the full logits, which takes more memory.",
        language_model.name,
        reason,
    )


def _factor(config, name: str) -> float:
    """A factor on the logits, as named in the configuration; 1 if it is not there."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else 1.0
