"""Layers that train in less memory: cheap results are recomputed, weight gradients add in place.

Autograd keeps every intermediate result for the backward pass, and allocates every weight gradient
before it is added to `.grad`. Here the backward pass of the most common layers is written by hand;
other layers are unchanged. Weights are kept on `ctx` itself, not with `save_for_backward`, because
gradient checkpointing would return a copy of a saved leaf, which has no `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dpo_lab.kernels.grad_buffers import add_product, add_rows, adding_in_place

_GATED = "gate_proj", "up_proj", "down_proj"
_PROBE_TOKENS = 3
_PROBE_TOLERANCE = 1e-5
"""Largest relative difference between a layer and its lean form on random states."""


class LeanLayers:
    """The layers of a model that have a lean form: found once, used in every step.

    They are plain `nn.Linear` and `nn.Embedding` layers whose weight is trained; RMS norms; and
    gated feed-forward layers as in Llama (`down(silu(gate(x)) * up(x))`). The last two are
    recognised by what they compute.

    Args:
        model: A model in its training precision.
    """

    def __init__(self, model: nn.Module):
        self._forwards: dict[nn.Module, Callable] = {}
        self._gradients: dict[Tensor, Tensor] = {}
        for module in model.modules():
            if "forward" in vars(module):  # already replaced by other code
                continue
            if _is_trained(module, nn.Linear):
                self._take(module, _linear, module.weight)
            elif _is_trained(module, nn.Embedding) and _is_plain_embedding(module):
                self._take(module, _embedding, module.weight)
            elif not _takes_states_alone(module):
                continue
            elif _is_gated(module) and _same(module, _gated, module.gate_proj.in_features):
                self._take(module, _gated_in_place if _adds_in_place(module) else _gated)
            elif _is_rms_norm(module) and _same(module, _rms_norm, len(module.weight)):
                self._take(module, _rms_norm)

    def _take(self, module: nn.Module, forward: Callable, *weights: Tensor) -> None:
        self._forwards[module] = partial(forward, module)
        # Allocated once and together, so that temporary arrays do not fragment the memory.
        for weight in weights:
            if weight not in self._gradients:  # an embedding may share its weight with the head
                self._gradients[weight] = torch.empty_like(weight)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Use the lean forms inside this context, for a forward pass and its backward pass.

        Inside it, `torch.autograd.grad` gives no gradient for linear and embedding weights.
        """
        with ExitStack() as stack:
            stack.enter_context(adding_in_place(self._gradients))
            for module, forward in self._forwards.items():
                module.forward = forward
                stack.callback(delattr, module, "forward")
            yield


def _is_trained(module: nn.Module, kind: type) -> bool:
    return type(module) is kind and module.weight.requires_grad and module.weight.is_leaf


def _is_plain_embedding(module: nn.Embedding) -> bool:
    return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def _takes_states_alone(module: nn.Module) -> bool:
    """Whether its forward takes hidden states only: Mamba 2's norms take a gate too."""
    return len(signature(module.forward).parameters) == 1


def _is_gated(module: nn.Module) -> bool:
    return all(hasattr(getattr(module, name, None), "in_features") for name in _GATED)


def _adds_in_place(module: nn.Module) -> bool:
    layers = [getattr(module, name) for name in _GATED]
    return all(_is_trained(layer, nn.Linear) and layer.bias is None for layer in layers)


def _is_rms_norm(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters(recurse=False))
    return parameters.keys() == {"weight"} and hasattr(module, "variance_epsilon")


@torch.no_grad()
def _same(module: nn.Module, forward, width: int) -> bool:
    """Whether a layer and its lean form agree on test states."""
    weight = next(module.parameters())
    states = torch.linspace(-3, 3, _PROBE_TOKENS * width, dtype=weight.dtype, device=weight.device)
    states = states.sin().view(1, _PROBE_TOKENS, width)
    try:
        plain, lean = module(states), forward(module, states)
    except (TypeError, ValueError, RuntimeError):
        return False
    if plain.is_meta:  # a memory estimate without weights: there is nothing to compare
        return True
    tolerance = _PROBE_TOLERANCE * plain.abs().max()
    return plain.shape == lean.shape and bool((plain - lean).abs().max() <= tolerance)


def _linear(module: nn.Linear, states: Tensor) -> Tensor:
    return _LinearInPlace.apply(_for_products(states), module.weight, module.bias)


def _for_products(states: Tensor) -> Tensor:
    """States in the precision of products: that of autocast, inside it."""
    kind = states.device.type
    if states.is_meta:  # autocast knows no such device
        return states
    if not torch.is_autocast_enabled(kind) or states.dtype == torch.float64:
        return states
    return states.to(torch.get_autocast_dtype(kind))


def _embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
    return _EmbeddingInPlace.apply(ids, module.weight, module.padding_idx)


def _gated(module: nn.Module, states: Tensor) -> Tensor:
    return module.down_proj(_SiluTimes.apply(module.gate_proj(states), module.up_proj(states)))


def _gated_in_place(module: nn.Module, states: Tensor) -> Tensor:
    return _GatedInPlace.apply(
        _for_products(states), *(getattr(module, name).weight for name in _GATED)
    )


def _rms_norm(module: nn.Module, states: Tensor) -> Tensor:
    return _RMSNorm.apply(states, module.weight, module.variance_epsilon)


class _LinearInPlace(Function):
    """`F.linear(states, weight, bias)`; adds the weight's gradient to `weight.grad` itself."""

    @staticmethod
    def forward(ctx, states, weight, bias):
        ctx.save_for_backward(states)
        ctx.weight = weight
        return F.linear(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (states,), weight = ctx.saved_tensors, ctx.weight
        rows = grad.flatten(0, -2)
        add_product(weight, rows, states.flatten(0, -2))
        needs_states, _, needs_bias = ctx.needs_input_grad
        back = grad @ weight.to(grad.dtype) if needs_states else None
        return back, None, rows.sum(0) if needs_bias else None


class _EmbeddingInPlace(Function):
    """`F.embedding(ids, weight)`; adds its gradient to the used rows of `weight.grad` only."""

    @staticmethod
    def forward(ctx, ids, weight, padding_idx):
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx = weight, padding_idx
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (ids,), weight = ctx.saved_tensors, ctx.weight
        ids, grad = ids.flatten(), grad.flatten(0, -2)
        if ctx.padding_idx is not None:
            grad = grad.masked_fill((ids == ctx.padding_idx)[:, None], 0.0)
        add_rows(weight, ids, grad)
        return None, None, None


class _SiluTimes(Function):
    """`silu(gated) * raised`; saves only these two arrays."""

    @staticmethod
    def forward(ctx, gated, raised):
        ctx.save_for_backward(gated, raised)
        return F.silu(gated).mul_(raised)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _silu_times_backward(grad, *ctx.saved_tensors)


def _silu_times_backward(grad: Tensor, gated: Tensor, raised: Tensor) -> tuple[Tensor, Tensor]:
    grad_gated = torch.ops.aten.silu_backward(grad * raised, gated)
    return grad_gated, F.silu(gated).mul_(grad)


class _GatedInPlace(Function):
    """`down(silu(gate(x)) * up(x))`; saves only `x` and the results of `gate` and `up`."""

    @staticmethod
    def forward(ctx, states, gate, up, down):
        gated, raised = F.linear(states, gate), F.linear(states, up)
        ctx.save_for_backward(states, gated, raised)
        ctx.weights = gate, up, down
        return F.linear(F.silu(gated).mul_(raised), down)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (gate, up, down), (states, gated, raised) = ctx.weights, ctx.saved_tensors
        shape = states.shape
        states, gated, raised, grad = (x.flatten(0, -2) for x in (states, gated, raised, grad))
        add_product(down, grad, F.silu(gated).mul_(raised))
        gate_now, up_now, down_now = (weight.to(grad.dtype) for weight in ctx.weights)
        grad_gated, grad_raised = _silu_times_backward(grad @ down_now, gated, raised)
        add_product(gate, grad_gated, states)
        add_product(up, grad_raised, states)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        back = (grad_gated @ gate_now).addmm_(grad_raised, up_now)
        return back.view(shape), None, None, None


class _RMSNorm(Function):
    """`x / sqrt(mean(x^2) + eps) * weight`; saves `x` and one number per token."""

    @staticmethod
    def forward(ctx, states, weight, eps):
        wide = torch.promote_types(states.dtype, torch.float32)  # as transformers' norms compute
        norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=wide)
        factor = norm.square_().div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, factor)
        normed = (states * factor).to(states.dtype)
        return normed.mul_(weight) if normed.dtype == weight.dtype else normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        states, weight, factor = ctx.saved_tensors
        normed = states * factor
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad_normed = grad * weight
        along = (grad_normed * normed).mean(-1, keepdim=True)
        return grad_normed.sub_(normed.mul_(along)).mul_(factor), grad_weight, None
