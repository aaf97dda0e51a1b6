"""What the decorator enters, and what a sum of losses takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, find_loss, register

PAIR = PairLogps(*(torch.tensor([value]) for value in (-1.0, -7.0, -2.0, -4.0)))
TEXTS = dict(title="Made up", formula="2 * margin", citation="Nobody", arxiv="", rewards="none")


@pytest.fixture
def made_up():
    """A loss of the margin with an option, entered for one test."""

    @register("made_up", **TEXTS, of_margin=True)
    def made_up_loss(pairs: PairLogps, beta: float, factor: float = 2.0) -> Tensor:
        return factor * beta * pairs.margins

    yield made_up_loss
    del LOSSES["made_up"]
    find_loss.cache_clear()


def test_a_registered_loss_is_found_with_the_options_of_its_signature(made_up):
    """The margin is 4 and beta 1/2: 4 by the default factor of 2, 20 by 10, 12 in a sum of 3."""
    loss = find_loss("made_up")
    assert loss.own_options == {"factor": 2.0} and loss.title == "Made up"
    assert loss(PAIR, 0.5).item() == made_up(PAIR, 0.5).item() == 4
    assert loss(PAIR, 0.5, factor=10.0).item() == 20
    assert find_loss("3 made_up")(PAIR, 0.5).item() == 12


def test_a_name_is_given_once(made_up):
    with pytest.raises(ValueError, match="'made_up': is already registered"):
        register("made_up", **TEXTS)(made_up)


def test_options_that_no_loss_takes_are_refused():
    with pytest.raises(TypeError, match="label_smothing"):
        LOSSES["sigmoid"](PAIR, 0.1, label_smothing=0.1)
    with pytest.raises(TypeError, match="label_smothing: no option"):
        find_loss("sigmoid + 0.2 nca_pair")(PAIR, 0.1, label_smothing=0.1)


def test_a_divergence_is_refused_where_only_a_part_of_a_sum_could_take_it():
    """`bco_pair` is no function of the margin: the reference would hold the two in two ways."""
    with pytest.raises(TypeError, match="f_divergence_type: no option"):
        find_loss("sigmoid + bco_pair")(PAIR, 0.1, f_divergence_type="forward_kl")
