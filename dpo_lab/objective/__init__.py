"""What is optimised: pure tensor maths. Imports torch alone."""

from dpo_lab.objective.kl import Estimate, token_kl
from dpo_lab.objective.logprobs import sequence_logps, token_logps
from dpo_lab.objective.loss import Loss, gradient_weight, loss_and_slopes
from dpo_lab.objective.losses import LOSSES, find_loss
from dpo_lab.objective.margins import dpo_loss, hinge_loss, ipo_loss
from dpo_lab.objective.pairs import PairLogps, implicit_rewards
from dpo_lab.objective.preference import (
    calibration,
    expected_accuracy,
    preference_accuracy,
    preference_nll,
    preference_probability,
    sample_preferences,
)

__all__ = [
    "LOSSES",
    "Estimate",
    "Loss",
    "PairLogps",
    "calibration",
    "dpo_loss",
    "expected_accuracy",
    "find_loss",
    "gradient_weight",
    "hinge_loss",
    "implicit_rewards",
    "ipo_loss",
    "loss_and_slopes",
    "preference_accuracy",
    "preference_nll",
    "preference_probability",
    "sample_preferences",
    "sequence_logps",
    "token_kl",
    "token_logps",
]
