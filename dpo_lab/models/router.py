"""The balancing loss of a mixture of experts' routers, as transformers computes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpo_lab.data.batching import Batch


@dataclass(frozen=True)
class Routers:
    """The routers of a model.

    Attributes:
        modules: One a layer of experts.
        index: Place of the logits in what a router returns; none where it returns them alone.
        model: The model, whose own function balances.
    """

    modules: tuple[nn.Module, ...]
    index: int | None
    model: nn.Module

    @classmethod
    def of(cls, model: nn.Module, name: str) -> Routers:
        """The routers of a `transformers` model.

        Raises:
            ValueError: If it has none, or no balancing loss of its own.
        """
        recorded = {}
        for part in model.modules():
            recorded |= getattr(part, "_can_record_outputs", None) or {}
        recorder = recorded.get("router_logits")
        kind = getattr(recorder, "target_class", recorder)
        found = tuple(m for m in model.modules() if kind and isinstance(m, kind))
        if not found or not hasattr(
            sys.modules[type(model).__module__], "load_balancing_loss_func"
        ):
            raise ValueError(
                f"model {name!r}: has no routers that transformers balances. "
                "Leave router_aux_loss_coef out."
            )
        return cls(found, getattr(recorder, "index", None), model)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """The logits of the routers in the forward passes within, `(tokens, experts)` each."""
        logits: list[Tensor] = []

        def record(module: nn.Module, arguments: tuple, output) -> None:
            own = output if self.index is None or isinstance(output, Tensor) else output[self.index]
            logits.append(own.flatten(0, -2))

        hooks = [module.register_forward_hook(record) for module in self.modules]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, logits: list[Tensor], batch: Batch) -> Tensor:
        """How unevenly the experts of a pass were used, a scalar; k where k a token are even.

        In a packed row a prompt that several responses share counts once, and the last token of a
        response, which predicts nothing, not at all; padding never counts.

        Args:
            logits: Of one forward pass.
            batch: Its layout.

        Source:
            Fedus et al. 2021, "Switch Transformers" (arXiv 2101.03961), Eq. 4 to 6.
        """
        mask = None
        if batch.lengths and len(logits) == len(self.modules):
            width, device = batch.input_ids.shape[1], logits[0].device
            lengths = torch.tensor(batch.lengths, device=device)
            mask = torch.arange(width, device=device) < lengths[:, None]
        function = sys.modules[type(self.model).__module__].load_balancing_loss_func
        config = self.model.config.get_text_config()
        experts = getattr(self.model, "num_experts", None) or logits[0].shape[-1]
        picked = getattr(self.model, "num_experts_per_tok", None) or config.num_experts_per_tok
        return function(tuple(logits), experts, picked, mask)
