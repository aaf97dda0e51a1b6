"""The optimiser's state in parts, as one process writes and reads it alone."""

import pytest
import torch
from safetensors.torch import save_file

from dpo_lab.models.processes import ALONE
from dpo_lab.training.optimizer_parts import read_parts, write_parts


def trained(kind: type[torch.optim.Optimizer], steps: int):
    """Two weights and their optimiser after some steps; the second has no gradient in the last."""
    torch.manual_seed(0)
    weights = {
        "a.weight": torch.nn.Parameter(torch.randn(3, 2)),
        "b": torch.nn.Parameter(torch.ones(5)),
    }
    optimizer = kind(weights.values(), lr=0.1)
    for step in range(steps):
        weights["a.weight"].grad = torch.randn(3, 2)
        weights["b"].grad = torch.randn(5) if step < steps - 1 else None
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
def test_what_is_read_is_what_was_written(tmp_path, kind):
    weights, optimizer = trained(kind, 3)
    steps = write_parts(optimizer, weights, tmp_path / "parts", ALONE)
    assert steps == {"a.weight": 3.0, "b": 2.0}
    fresh, cold = trained(kind, 0)
    read_parts(cold, fresh, tmp_path / "parts", steps, ALONE)
    for name, weight in fresh.items():
        warm, found = optimizer.state[weights[name]], cold.state[weight]
        assert found.keys() == warm.keys()
        assert all(torch.equal(found[key], value) for key, value in warm.items())
    for one in (weights, fresh):
        one["a.weight"].data.fill_(1)
        one["a.weight"].grad = torch.ones(3, 2)
    optimizer.step(), cold.step()
    assert torch.equal(weights["a.weight"], fresh["a.weight"])


def test_nothing_is_written_before_the_first_step(tmp_path):
    weights, optimizer = trained(torch.optim.AdamW, 0)
    assert write_parts(optimizer, weights, tmp_path / "parts", ALONE) == {}
    read_parts(optimizer, weights, tmp_path / "parts", {}, ALONE)
    assert not optimizer.state


def test_what_cannot_be_written_or_read_is_an_error_in_words(tmp_path):
    weights, optimizer = trained(torch.optim.AdamW, 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="^rank 0: .*file"):
        write_parts(optimizer, weights, tmp_path / "file", ALONE)
    steps = write_parts(optimizer, weights, tmp_path / "parts", ALONE)
    (part,) = (tmp_path / "parts").iterdir()
    save_file({"c.exp_avg": torch.ones(2)}, part)
    with pytest.raises(ValueError, match="c.exp_avg belongs to no weight of this run"):
        read_parts(optimizer, weights, tmp_path / "parts", steps, ALONE)
