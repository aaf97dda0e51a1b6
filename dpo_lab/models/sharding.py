"""Weights divided among processes by torch's `fully_shard`, and gathered a layer at a time.

Each process holds a part of every weight, of its gradient and of the optimiser's state. A layer is
whole only while it computes, so every pass of one process needs all others to make one as well.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from dpo_lab.kernels.memory import return_freed_memory
from dpo_lab.kernels.tree_attention import using_trees
from dpo_lab.models.processes import Processes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
_METHOD = "_dpo_lab_while_gathered"


@dataclass(eq=False)
class Shards:
    """How a model is divided.

    Attributes:
        processes: The processes that hold its parts.
        mesh: The same processes, as torch knows them.
        outline: The model undivided, its weights without storage.
        base: The divided `transformers` model, under any adapter.
    """

    processes: Processes
    mesh: DeviceMesh
    outline: nn.Module
    base: nn.Module

    def __post_init__(self) -> None:
        self._gathered = False

    @classmethod
    def of(cls, model: nn.Module, processes: Processes, device: torch.device) -> Shards:
        """Divide a model's weights among processes; it is changed in place.

        Args:
            model: The whole model, with any adapter; the same in all processes.
            processes: The processes.
            device: Where the parts are to lie; the model is moved there one layer at a time.

        Raises:
            ValueError: If no process is there to divide with, or the model has no layers.
        """
        from torch.distributed.device_mesh import init_device_mesh

        if not processes.several:
            raise ValueError(
                "strategy fsdp divides a model among several processes, and this one is alone. "
                "Give --processes, or start them with torchrun; or leave --strategy out."
            )
        if device.type == "cpu":
            return_freed_memory()
        mesh = init_device_mesh(device.type, (processes.count,))
        base = _base_of(model)
        with using_trees(base) as accepted:  # a divided model's class cannot change it
            if accepted:
                accepted.keep()
        outline = _outline(model)
        _fully_shard(base, mesh)
        return cls(processes, mesh, outline, base)

    def frozen_copy(self, model: nn.Module) -> tuple[nn.Module, Shards]:
        """A copy of the divided model, divided alike, that is not trained."""
        copied = _outline(self.outline).requires_grad_(False)
        base = _base_of(copied)
        _fully_shard(base, self.mesh)
        values = {name: part.detach().clone() for name, part in model.state_dict().items()}
        copied.load_state_dict(values, assign=True)
        return copied.requires_grad_(False), Shards(self.processes, self.mesh, self.outline, base)

    def gathered(self, work: Callable[[], T]) -> T:
        """What a function returns that uses weights outside the layers: embedding, norm, head.

        Args:
            work: Called while these weights are whole. It runs the trunk equally often in all
                processes, and returns tensors.
        """
        if self._gathered:
            return work()
        self._gathered = True
        try:
            return getattr(self.base, _METHOD)(work)
        except Exception:
            if hasattr(self.base, "reset_iter_state"):  # a layout that the model does not take
                self.base.reset_iter_state()
            raise
        finally:
            self._gathered = False

    def passes(self, ours: int) -> int:
        """The most passes that any process has to make; all of them ask before the first.

        Args:
            ours: How many this one has.
        """
        return max(self.processes.gather(ours))

    def divided(self, tensor: Tensor) -> Tensor:
        """This process's part of a whole tensor that all of them have."""
        from torch.distributed.tensor import Shard, distribute_tensor

        tensor = tensor.to(self.mesh.device_type)
        return distribute_tensor(tensor, self.mesh, [Shard(0)], src_data_rank=None)

    def whole(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Divided tensors put together, on the CPU; only in the first process, else empty.

        Args:
            model: The model; what it ties is put together once.
            tensors: A part of its state, by name.
        """
        found: dict[str, Tensor] = {}
        firsts: dict[int, str] = {}
        tied = {
            name: firsts.setdefault(id(weight), name)
            for name, weight in model.named_parameters(remove_duplicate=False)
        }
        for name, tensor in tensors.items():
            first = tied.get(name, name)
            if first != name and first in tensors:
                continue
            tensor = whole(tensor)
            if self.processes.first:
                found[name] = tensor.cpu()
        again = {name: found[tied[name]] for name in tensors if name not in found and found}
        return found | again


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes, if it is divided; all of them call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; all of it, if it is not divided."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def plain_class(model: nn.Module) -> type[nn.Module]:
    """The class of a model before it was divided, which gives it a class of its own."""
    divided = hasattr(model, "set_requires_gradient_sync")
    return type(model).__bases__[1] if divided else type(model)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model repeats: the members of its outermost lists of modules.

    Those that share a weight with each other, or with what is outside of them, are left out.
    """
    layers, outside = [], []

    def look_into(module: nn.Module) -> None:
        outside.extend(module.parameters(recurse=False))
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                layers.extend(child)
            else:
                look_into(child)

    look_into(model)
    uses = Counter(id(weight) for layer in layers for weight in set(layer.parameters()))
    uses.update(map(id, outside))
    own = [layer for layer in layers if all(uses[id(weight)] == 1 for weight in layer.parameters())]
    return [layer for layer in own if any(True for _ in layer.parameters())]


def _fully_shard(base: nn.Module, mesh: DeviceMesh) -> None:
    """Divide each layer, and what is left as one more; gradients are added up, not averaged."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    layers = layers_of(base)
    if not layers:
        raise ValueError(
            f"strategy fsdp: a {type(base).__name__} has no list of layers by which it could be "
            "divided. Leave --strategy out."
        )
    modules: Sequence[Any] = [*layers, base]
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        if hasattr(module, "set_reduce_scatter_unused_params"):  # experts that no token reached
            module.set_reduce_scatter_unused_params(True, recurse=False)
    setattr(base, _METHOD, MethodType(lambda module, work: work(), base))
    register_fsdp_forward_method(base, _METHOD)


def _base_of(model: nn.Module) -> nn.Module:
    """The `transformers` model under any adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _outline(model: nn.Module) -> nn.Module:
    """A copy of a model whose weights have no storage."""
    memo = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, memo)
