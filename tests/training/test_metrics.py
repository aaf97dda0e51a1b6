import pytest
import torch

from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, loss_and_grads
from dpo_lab.training.metrics import ROUNDING, pair_metrics


def metrics(margins: torch.Tensor, beta: float = 0.5) -> dict[str, float]:
    """Metrics of pairs whose chosen log-ratio is the margin and whose rejected one is 0."""
    zeros = torch.zeros_like(margins)
    pairs = PairLogps(margins - 3, zeros - 5, zeros - 3, zeros - 5)
    losses, slopes = loss_and_grads(LOSSES["sigmoid"], pairs, beta)
    return pair_metrics(losses, pairs, -slopes[0] / beta, beta)


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_the_spread_is_between_the_deciles(count):
    margins = torch.randn(count, generator=torch.Generator().manual_seed(count))
    values = metrics(margins)
    low, high = (0.5 * margins).quantile(torch.tensor([0.1, 0.9])).tolist()
    assert values["rewards/margins_p10"] == pytest.approx(low, abs=1e-5)
    assert values["rewards/margins_p90"] == pytest.approx(high, abs=1e-5)


def test_values_by_hand():
    """Margins 2, -1, 0 and one as small as rounding, at beta 0.5: two are wins."""
    values = metrics(torch.tensor([2.0, -1.0, 0.0, ROUNDING / 2]))
    assert values["rewards/margins"] == pytest.approx(0.5 * 1 / 4, abs=1e-4)
    assert values["rewards/accuracies"] == 0.5, "TRL counts chosen > rejected, however small"
    assert values["logratios/chosen_negative"] == 0.25
    assert (
        values["logratios/chosen"] == pytest.approx(0.25, abs=1e-4)
        and values["logratios/rejected"] == 0
    )
    weights = torch.sigmoid(torch.tensor([-1.0, 0.5, 0.0, 0.0])).mean().item()
    assert values["gradient_weight"] == pytest.approx(weights, abs=1e-4)


def test_accuracy_is_a_strict_comparison_of_rewards():
    """By TRL's definition, `(chosen_rewards > rejected_rewards).mean()`, in float32.

    Log-ratios (chosen, rejected): a tie at 1, a win by one step of float32, a loss by the same, and
    a win whose two rewards are both negative.
    """
    step = 2.0**-23
    chosen = torch.tensor([1.0, 1 + step, 1.0, -2.0])
    rejected = torch.tensor([1.0, 1.0, 1 + step, -3.0])
    zeros = torch.zeros(4)
    pairs = PairLogps(chosen, rejected, zeros, zeros)
    losses, slopes = loss_and_grads(LOSSES["sigmoid"], pairs, 0.1)
    values = pair_metrics(losses, pairs, -slopes[0] / 0.1, 0.1)
    theirs = (0.1 * chosen > 0.1 * rejected).float().mean().item()
    assert values["rewards/accuracies"] == theirs == 0.5
