"""Preference losses, Bradley-Terry, KL and the RLHF optimum as pure tensor maths; needs torch only.

Importing this package registers every loss in `LOSSES`.
"""

from dpo_lab.objective.dpo import dpo_loss, hinge_loss, ipo_loss  # isort: split

from dpo_lab.objective import anchored, reference_free, scored, unpaired
from dpo_lab.objective.bradley_terry import (
    calibration,
    expected_accuracy,
    preference_nll,
    preference_probability,
    sample_preferences,
)
from dpo_lab.objective.kl import Estimate, token_kl
from dpo_lab.objective.logprobs import sequence_logps, token_logps
from dpo_lab.objective.pair_logps import PairLogps, implicit_rewards
from dpo_lab.objective.registry import LOSSES, Loss, find_loss, gradient_weight, loss_and_grads

__all__ = [
    "LOSSES",
    "Estimate",
    "Loss",
    "PairLogps",
    "anchored",
    "calibration",
    "dpo_loss",
    "expected_accuracy",
    "find_loss",
    "gradient_weight",
    "hinge_loss",
    "implicit_rewards",
    "ipo_loss",
    "loss_and_grads",
    "preference_nll",
    "preference_probability",
    "reference_free",
    "sample_preferences",
    "scored",
    "sequence_logps",
    "token_kl",
    "token_logps",
    "unpaired",
]
