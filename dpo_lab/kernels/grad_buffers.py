"""Weight gradients accumulated directly into `.grad`, without a temporary array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

_BUFFER = "_dpo_lab_gradient"


@contextmanager
def adding_in_place(gradients: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Inside this context, `adds_in_place` is true for these weights.

    Args:
        gradients: For each weight (a leaf that requires grad), the buffer to use as its gradient.
    """
    for weight, gradient in gradients.items():
        setattr(weight, _BUFFER, gradient)
    try:
        yield
    finally:
        for weight in gradients:
            delattr(weight, _BUFFER)


def adds_in_place(weight: Tensor) -> bool:
    """Whether a layer should add its weight's gradient to `.grad` and return none to autograd."""
    return hasattr(weight, _BUFFER)


def summed_into(weight: Tensor) -> tuple[Tensor, bool]:
    """The gradient buffer, and whether it is uninitialised: if so, overwrite it, do not add to it.

    Args:
        weight: A weight for which `adds_in_place` is true.
    """
    new = weight.grad is None
    if new:
        weight.grad = getattr(weight, _BUFFER)
    return weight.grad, new


def add_product(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """`weight.grad += left.T @ right`, without an array for the product in the weight's precision.

    Args:
        weight: `(n, m)`, for which `adds_in_place` is true.
        left: `(rows, n)`.
        right: `(rows, m)`; where both are bfloat16, so is the product, as under autocast.
    """
    gradient, new = summed_into(weight)
    if left.dtype == gradient.dtype:
        gradient.addmm_(left.T, right, beta=0 if new else 1)
    elif new:
        gradient.copy_(left.T @ right)
    else:
        gradient.add_(left.T @ right)


def add_rows(weight: Tensor, ids: Tensor, rows: Tensor) -> None:
    """`weight.grad[ids] += rows`.

    Args:
        weight: `(n, m)`, for which `adds_in_place` is true.
        ids: `(rows,)`.
        rows: `(rows, m)`.
    """
    gradient, new = summed_into(weight)
    if new:
        gradient.zero_()
    gradient.index_add_(0, ids, rows.to(gradient.dtype))
