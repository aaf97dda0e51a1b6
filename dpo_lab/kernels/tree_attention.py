"""Attention over packed rows: each token sees itself and its ancestors in its prefix tree.

Registered with `transformers.AttentionInterface`. The trees are passed as a keyword argument of the
model's forward, so there is no global state; without them it is plain SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dpo_lab.data.batching import Trees

NAME = "dpo_lab_trees"
NOT_IN_TREES = ("softcap", "position_bias", "s_aux", "dropout")
"""Keyword arguments of layers whose attention is more than the softmax of query times key."""


def sliding_window(config) -> float:
    """Shortest attention window of any layer, in tokens; infinite if all layers attend fully."""
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True)
    chunk = getattr(config, "attention_chunk_size", None)
    return min(window if window and used else float("inf"), chunk or float("inf"))


class _Accepted:
    """Whether a model accepted the attention, and whether to leave it in place."""

    def __init__(self, taken: bool):
        self.taken, self.kept = taken, False

    def __bool__(self) -> bool:
        return self.taken

    def keep(self) -> None:
        """Leave the attention in place."""
        self.kept = True


@contextmanager
def using_trees(model: nn.Module) -> Iterator[_Accepted]:
    """Use tree attention in a model inside this context, or permanently after `keep()`.

    Without trees it computes what SDPA computes, so only models that use SDPA are changed.

    Args:
        model: A `transformers` model; its configuration is changed.

    Yields:
        Whether the model accepted it; its `keep()` leaves it in place.
    """
    before = model.config._attn_implementation
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if before == NAME:
        accepted = _Accepted(True)
        accepted.keep()
    elif before != "sdpa":
        accepted = _Accepted(False)
    else:
        try:
            model.set_attn_implementation(NAME)
        except ValueError:
            pass
        accepted = _Accepted(model.config._attn_implementation == NAME)
    try:
        yield accepted
    finally:
        if accepted and not accepted.kept:
            model.set_attn_implementation(before)


def tree_keywords(trees: Trees, positions: Tensor, dtype: torch.dtype) -> dict:
    """Keyword arguments of a model's forward over a packed row.

    The mask is a dummy: transformers passes a four-dimensional mask through and builds no other.
    """
    masks = TreeMasks.of(trees, dtype)
    dummy = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=positions.device)
    return {"position_ids": positions, "attention_mask": dummy, "trees": masks}


BLOCK = 128
"""Queries and keys in a block of FlexAttention, whose kernels take rows in multiples of it."""


class CannotPack(ValueError):
    """The model's attention is more than trees can express, so its sequences must be padded."""


@dataclass(frozen=True)
class TreeMasks:
    """Attention masks of the prefix trees of a packed row, computed once for all layers.

    Attributes:
        bounds: Where each tree begins, and where the last one ends.
        masks: For each tree `(queries, keys)`: 0 where a query may attend, else minus infinity.
        block_mask: For FlexAttention on CUDA, instead of the masks.
    """

    bounds: tuple[int, ...]
    masks: tuple[Tensor, ...] = ()
    block_mask: Any = None
    _repeated: dict[int, list[Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, trees: Trees, dtype: torch.dtype) -> TreeMasks:
        """The masks on the trees' device, for queries of a dtype."""
        if trees.subtree_end.device.type == "cuda":
            return cls(trees.bounds, block_mask=block_mask(trees))
        masks = [
            torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
                ~allowed, -torch.inf
            )
            for allowed in trees.masks()
        ]
        return cls(trees.bounds, tuple(masks))

    def masks_for(self, groups: int) -> Sequence[Tensor]:
        """The masks for `groups` query heads per key head, `(groups x queries, keys)`."""
        if groups == 1:
            return self.masks
        if groups not in self._repeated:
            self._repeated[groups] = [mask.repeat(groups, 1) for mask in self.masks]
        return self._repeated[groups]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: TreeMasks | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **options,
) -> tuple[Tensor, None]:
    """Attention of one layer, as `transformers` calls it.

    Args:
        module: The layer.
        query: `(1, heads, length, width)`.
        key: `(1, key heads, length, width)`.
        value: `(1, key heads, length, width)`.
        attention_mask: Used only without trees.
        trees: Which tokens attend to which; none for plain SDPA.
        scaling: Factor on the scores.
        softcap: A bound on the scores; not supported with trees.
        options: Other keyword arguments that the model passes.

    Returns:
        `(1, length, heads, width)`, and no attention weights.

    Raises:
        CannotPack: If the layer's scores are more than a product of query and key.
    """
    if trees is None:
        if softcap is not None:
            options["softcap"] = softcap
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    options |= {"softcap": softcap, "dropout": options.get("dropout") or None}
    extras = [name for name in NOT_IN_TREES if options.get(name) is not None]
    if extras:
        raise CannotPack(f"its attention has {extras[0]}")
    if trees.block_mask is not None:
        return flex_attention_forward(module, query, key, value, trees.block_mask, scaling=scaling)
    # Split, not sliced: the gradient of a slice is a whole array of zeros.
    sizes = [len(mask) for mask in trees.masks]
    parts = zip(*(whole.split(sizes, dim=2) for whole in (query, key, value)), strict=True)
    groups = query.shape[1] // key.shape[1]
    outputs = [
        _attend(*part, mask, scaling, groups)
        for part, mask in zip(parts, trees.masks_for(groups), strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, groups: int
) -> Tensor:
    """Attention in one tree, `(1, length, heads, width)`.

    Query heads that share a key head are joined along the queries, so that no key is copied.
    """
    length = query.shape[2]
    if groups > 1:
        query = query.unflatten(1, (-1, groups)).flatten(2, 3)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling
    )
    if groups > 1:
        return output.unflatten(2, (groups, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return output.transpose(1, 2)


def block_mask(trees: Trees) -> Any:
    """The mask of all trees for FlexAttention, which skips blocks that no query may attend to.

    Each block is found from the ends of subtrees alone: no array of `(length, length)` is made.

    Args:
        trees: The trees; a row whose length is a multiple of `BLOCK` has no block cut short.

    Returns:
        A `BlockMask`, with the blocks that are seen in part and those that are seen whole.
    """
    from torch.nn.attention.flex_attention import BlockMask

    end, length = trees.subtree_end, len(trees.subtree_end)
    blocks = -(-length // BLOCK)
    ends = nn.functional.pad(end, (0, blocks * BLOCK - length)).view(blocks, BLOCK)
    keys = torch.arange(blocks * BLOCK, device=end.device).view(blocks, BLOCK)
    first = BLOCK * torch.arange(blocks, device=end.device)[:, None]
    last = (first + BLOCK - 1).clamp_max(length - 1)
    # A key is seen by the queries from its own place to before the end of its subtree.
    seen = (keys <= last[..., None]) & (ends > first[..., None])
    partly = seen.any(-1)
    whole = (keys[:, -1] <= first) & (ends.min(-1).values > last) & (last - first == BLOCK - 1)

    def visible(batch, head, query, key):
        return (key <= query) & (query < end[key])

    return BlockMask.from_kv_blocks(
        *_listed(partly & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are set, and which: those first, in order.

    Args:
        blocks: `(rows, columns)`, boolean.

    Returns:
        `(1, 1, rows)` and `(1, 1, rows, columns)`, int32.
    """
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]
