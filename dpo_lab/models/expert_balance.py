"""Load-balancing loss of the routers of a mixture of experts, as transformers computes it."""

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
        modules: One router per layer of experts.
        index: Position of the logits in a router's output; None if it returns only logits.
        model: The model; the function that computes the loss is in its module.
    """

    modules: tuple[nn.Module, ...]
    index: int | None
    model: nn.Module

    @classmethod
    def of(cls, model: nn.Module, name: str) -> Routers:
        """The routers of a `transformers` model.

        Raises:
            ValueError: If it has no routers, or transformers has no balancing loss for it.
        """
        recorded = {}
        for part in model.modules():
            recorded |= getattr(part, "_can_record_outputs", None) or {}
        recorder = recorded.get("router_logits")
        kind = getattr(recorder, "target_class", recorder)
        routers = tuple(m for m in model.modules() if kind and isinstance(m, kind))
        if not routers or not hasattr(
            sys.modules[type(model).__module__], "load_balancing_loss_func"
        ):
            raise ValueError(
                f"model {name!r}: has no routers that transformers balances. "
                "Leave router_aux_loss_coef out."
            )
        return cls(routers, getattr(recorder, "index", None), model)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Record the router logits of forward passes inside, `(tokens, experts)` each."""
        logits: list[Tensor] = []

        def record(module: nn.Module, arguments: tuple, output) -> None:
            alone = self.index is None or isinstance(output, Tensor)
            logits.append((output if alone else output[self.index]).flatten(0, -2))

        hooks = [module.register_forward_hook(record) for module in self.modules]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, logits: list[Tensor], batch: Batch) -> Tensor:
        """Load-balancing loss of one pass, a scalar; k if k experts per token are used evenly.

        In a packed row a prompt shared by several responses counts once, and the last token of a
        response, which predicts nothing, does not count. Padding never counts.

        Args:
            logits: Router logits of one forward pass.
            batch: The batch of that pass.

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
