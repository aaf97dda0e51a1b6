import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dpo_lab.kernels.head import TILE, linear_token_logps, module_token_logps

TOKENS, WIDTH, VOCABULARY = 7, 4, 5


class Watch(TorchDispatchMode):
    """Notes the operators that run and the elements of the largest tensor they make."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return out


def inputs(tokens=TOKENS, vocabulary=VOCABULARY, dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, WIDTH, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, dtype=dtype, requires_grad=True)
    return hidden, weight, bias, torch.randint(vocabulary, (tokens,))


def plain(hidden, weight, bias, targets, scale, softcap):
    """The definition, all logits at once."""
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = scale * logits
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


HEADS = {
    "plain": {"bias": False, "scale": 1.0, "softcap": None},
    "bias": {"bias": True, "scale": 1.0, "softcap": None},
    "scale": {"bias": True, "scale": 0.3, "softcap": None},
    "softcap": {"bias": True, "scale": 1.7, "softcap": 1.5},
}


@pytest.mark.parametrize("tile", [(1, 1), (3, 4), (3, 100), (100, 3), TILE])
@pytest.mark.parametrize("head", HEADS)
def test_tiled_head_is_the_definition(head, tile):
    hidden, weight, bias, targets = inputs()
    bias = bias if HEADS[head]["bias"] else None
    scale, softcap = HEADS[head]["scale"], HEADS[head]["softcap"]
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    upstream = torch.randn(TOKENS, dtype=torch.float64)

    expected = plain(hidden, weight, bias, targets, scale, softcap)
    expected_grads = torch.autograd.grad(expected, leaves, upstream)
    found = linear_token_logps(
        hidden, weight, targets, bias=bias, scale=scale, softcap=softcap, tile=tile
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    grads = torch.autograd.grad(found, leaves, upstream)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_gradcheck(head):
    hidden, weight, bias, targets = inputs(tokens=4)
    bias = bias if HEADS[head]["bias"] else None
    scale, softcap = HEADS[head]["scale"], HEADS[head]["softcap"]

    def logps(hidden, weight, bias):
        return linear_token_logps(
            hidden, weight, targets, bias=bias, scale=scale, softcap=softcap, tile=(3, 4)
        )

    assert torch.autograd.gradcheck(logps, (hidden, weight, bias))


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_any_head_called_in_chunks_is_the_definition(chunk):
    hidden, weight, bias, targets = inputs()
    head = nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)
    head.weight, head.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    leaves = [hidden, head.weight, head.bias]
    expected = plain(hidden, head.weight, head.bias, targets, 1.0, None)
    found = module_token_logps(hidden, head, targets, vocabulary=VOCABULARY, chunk_tokens=chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    upstream = torch.randn(TOKENS, dtype=torch.float64)
    for grad, expected_grad in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def test_frozen_head_gets_no_gradient_and_costs_one_product_less():
    """Each of 3 chunks: its logits again, the gradient to hidden, and to weight only if asked."""
    products = {}
    for frozen in (False, True):
        hidden, weight, bias, targets = inputs()
        weight.requires_grad_(not frozen)
        out = linear_token_logps(hidden, weight, targets, tile=(3, 100))
        with Watch() as watch:
            out.sum().backward()
        products[frozen] = watch.products
        assert hidden.grad is not None
        assert (weight.grad is None) == frozen
    assert products == {False: 9, True: 6}


MANY, WORDS, CHUNK = 64, 50, 8


def _linear(hidden, weight, targets):
    return linear_token_logps(hidden, weight, targets, softcap=5.0, tile=(2 * CHUNK, WORDS // 2))


def _module(hidden, weight, targets):
    def head(states):
        return states @ weight.T

    return module_token_logps(hidden, head, targets, vocabulary=WORDS, chunk_tokens=CHUNK)


def _plain(hidden, weight, targets):
    return plain(hidden, weight, None, targets, 1.0, None)


@pytest.mark.parametrize("compute, bounded", [(_linear, True), (_module, True), (_plain, False)])
def test_the_logits_of_all_tokens_are_never_held(compute, bounded):
    """No tensor of tokens x vocabulary is made, and what is kept for the backward is smaller too.

    The plain definition stands beside it to show that both measures would see it.
    """
    hidden, weight, _, targets = inputs(MANY, WORDS, torch.float32)
    saved = {}

    def keep(tensor):
        saved[tensor.data_ptr(), tensor.numel()] = tensor.numel()
        return tensor

    with Watch() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = compute(hidden, weight, targets)
        kept = sum(saved.values())
        out.sum().backward()
    assert watch.largest >= CHUNK * WORDS
    assert (watch.largest < MANY * WORDS) == bounded
    assert (kept < MANY * WORDS) == bounded


def test_a_head_that_never_says_some_words():
    """Vocabularies are padded so: a bias of minus infinity, here for all of a tile."""
    hidden, weight, bias, _ = inputs(vocabulary=10)
    bias.data[:6] = -torch.inf
    targets = torch.full((TOKENS,), 6)
    expected = plain(hidden, weight, bias, targets, 1.0, None)
    found = linear_token_logps(hidden, weight, targets, bias=bias, tile=(3, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_no_tokens_is_no_value_and_no_gradient():
    hidden, weight, _, _ = inputs()
    none = torch.zeros(0, dtype=torch.long)
    for found in (
        linear_token_logps(hidden[:0], weight, none),
        module_token_logps(hidden[:0], lambda states: states @ weight.T, none, vocabulary=5),
    ):
        assert found.shape == (0,)
        (grad,) = torch.autograd.grad(found.sum(), weight)
        assert not grad.any()


def test_chunked_heads_refuse_what_they_cannot_do():
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match="each hidden state predicts one target"):
        linear_token_logps(hidden, weight, targets[:-1])
    with pytest.raises(ValueError, match=r"tile=\(3, 0\)"):
        linear_token_logps(hidden, weight, targets, tile=(3, 0))
    with pytest.raises(ValueError, match="chunk_tokens=0"):
        module_token_logps(hidden, lambda x: x, targets, vocabulary=5, chunk_tokens=0)
    (grad,) = torch.autograd.grad(
        linear_token_logps(hidden, weight, targets).square().sum(), hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
