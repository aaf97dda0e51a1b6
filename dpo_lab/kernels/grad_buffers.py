"""Weight gradients accumulated straight into `.grad`, without a temporary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

_MEMORY = "_dpo_lab_gradient"


@contextmanager
def adding_in_place(gradients: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Within it, `adds_in_place` is true of some weights.

    Args:
        gradients: For each weight, a trained leaf, the memory that its gradient is to take.
    """
    for weight, gradient in gradients.items():
        setattr(weight, _MEMORY, gradient)
    try:
        yield
    finally:
        for weight in gradients:
            delattr(weight, _MEMORY)


def adds_in_place(weight: Tensor) -> bool:
    """Whether a layer shall add its weight's gradient to `.grad` and give autograd none."""
    return hasattr(weight, _MEMORY)


def summed_into(weight: Tensor) -> tuple[Tensor, bool]:
    """The gradient buffer, and whether it is uninitialised: then it is to be set, not added to.

    Args:
        weight: One of which `adds_in_place` is true.
    """
    new = weight.grad is None
    if new:
        weight.grad = getattr(weight, _MEMORY)
    return weight.grad, new


def add_product(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """`weight.grad += left.T @ right`, without an array for the product.

    Args:
        weight: `(n, m)`, one of which `adds_in_place` is true.
        left: `(rows, n)`.
        right: `(rows, m)`.
    """
    gradient, new = summed_into(weight)
    gradient.addmm_(left.T, right, beta=0 if new else 1)


def add_rows(weight: Tensor, ids: Tensor, rows: Tensor) -> None:
    """`weight.grad[ids] += rows`.

    Args:
        weight: `(n, m)`, one of which `adds_in_place` is true.
        ids: `(rows,)`.
        rows: `(rows, m)`.
    """
    gradient, new = summed_into(weight)
    if new:
        gradient.zero_()
    gradient.index_add_(0, ids, rows)
