"""Divided weights, as far as one process sees them; test_processes.py has the rest."""

import pytest
import torch

from dpo_lab.models.sharding import layers_of, own_part, plain_class, whole
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.setup import prepare


def test_one_process_alone_says_how_to_start_more():
    with pytest.raises(ValueError, match="^strategy fsdp divides .* this one is alone. Give --pro"):
        prepare(TrainConfig(model="micro", data="reviews", device="cpu"), strategy="fsdp")


def test_layers_are_what_a_model_repeats_without_shared_weights(micro):
    assert [type(layer).__name__ for layer in layers_of(micro.model)] == ["LlamaDecoderLayer"]
    assert layers_of(torch.nn.Linear(2, 2)) == []
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)})
    experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    first, second, third, tied = (torch.nn.ModuleList([torch.nn.Linear(2, 2)]) for _ in range(4))
    third[0].weight = second[0].weight
    tied[0].weight = model["head"].weight
    block = torch.nn.Sequential(experts)
    model["layers"] = torch.nn.ModuleList([first, second, third, tied, block, torch.nn.ReLU()])
    assert layers_of(model) == [first, block]


def test_what_is_not_divided_is_whole(micro):
    tensor = torch.ones(3)
    assert whole(tensor) is tensor and own_part(tensor) is tensor
    assert plain_class(micro.model) is type(micro.model)
    assert micro.shards is None and micro.in_step([[1], [2, 3]]) == [[1], [2, 3]]
    assert micro.gathered(lambda: 7) == 7 and not micro.any_goes_on(False)
