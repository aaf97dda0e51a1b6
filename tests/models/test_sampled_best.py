"""Best-of-n of the real sampler against its exact distribution over all of micro's answers."""

import pytest
import torch

from dpo_lab.data import reviews
from dpo_lab.models.best_of_n import sample_best_of_n
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.objective.best_of_n import best_of_n_logps
from dpo_lab.objective.optimum import expected_reward

PROMPTS = ["the plot was", "the ending felt"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_mean_reward_is_exact_within_three_standard_errors(micro, n):
    space = ResponseSpace.of(micro, PROMPTS, reviews.reward)
    exact = expected_reward(best_of_n_logps(space.reference_logps, space.rewards, n), space.rewards)
    answers = sample_best_of_n(micro, PROMPTS * 300, n, reviews.reward, seed=n)
    rewards = torch.tensor(
        [reviews.reward(prompt, a.text) for prompt, a in zip(PROMPTS * 300, answers, strict=True)]
    ).double()
    for index in range(2):
        ours = rewards[index::2]
        error = ours.std() / len(ours) ** 0.5
        assert (ours.mean() - exact[index]).abs() < 3 * error


def test_it_takes_the_first_of_the_best_and_refuses_none(micro):
    said = []

    def reward(prompt, answer):
        said.append(answer)
        return 0.0

    (best,) = sample_best_of_n(micro, PROMPTS[:1], 5, reward, seed=1)
    assert best.text == said[0] and len(said) == 5
    with pytest.raises(ValueError, match="n=0: there is nothing"):
        sample_best_of_n(micro, PROMPTS, 0, reward)
