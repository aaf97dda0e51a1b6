"""DPO on fresh pairs against the exact optimum: loss, log-probabilities, mask and loop at once."""

from __future__ import annotations

import pytest
import torch

from dpo_lab.data.reviews import HELD_OUT_PROMPTS, PROMPTS, score
from dpo_lab.models.enumeration import enumerate_responses
from dpo_lab.models.frontier import exact_frontier
from dpo_lab.models.loading import load_model
from dpo_lab.objective.optimum import exact_kl, expected_reward
from dpo_lab.objective.preference import sample_preferences
from dpo_lab.training import TrainConfig, prepare, train

STEPS, BATCH = 1500, 256


def _fresh_pairs(frontier, texts: list[str], seed: int) -> list[dict[str, str]]:
    """As many pairs as the run uses, each once: two responses, labelled by Bradley-Terry.

    Half of the responses are the reference's own. The others are drawn from its fourth root, for
    DPO learns nothing of answers that no pair shows: trained on the reference's own alone, micro
    gives much of its probability to answers such as "great but superb", which the reference never
    says, and reaches 60 % of the frontier.
    """
    generator = torch.Generator().manual_seed(seed)
    rewards, rows = frontier.rewards[0], []
    share = frontier.reference_logps.exp() + (frontier.reference_logps / 4).softmax(-1)
    share[:, texts.index("")] = 0  # an empty response is no answer, and would be skipped
    for prompt, weights in zip(PROMPTS, share, strict=True):
        drawn = torch.multinomial(
            weights, 2 * STEPS * BATCH // len(PROMPTS) + 4000, True, generator=generator
        )
        first, second = drawn.view(-1, 2)[drawn.view(-1, 2).diff(dim=1).squeeze(1) != 0].T
        wins = sample_preferences(rewards[first], rewards[second], generator)
        for a, b, first_wins in zip(first.tolist(), second.tolist(), wins.tolist(), strict=True):
            chosen, rejected = (a, b) if first_wins else (b, a)
            rows.append({"prompt": prompt, "chosen": texts[chosen], "rejected": texts[rejected]})
    order = torch.randperm(len(rows), generator=generator)[: STEPS * BATCH]
    return [rows[index] for index in order.tolist()]


@pytest.mark.slow
def test_dpo_on_fresh_pairs_gains_what_the_frontier_gains_at_its_kl() -> None:
    reference = load_model("micro")
    (ids,) = reference.encoder.prompts([PROMPTS[0]])
    responses = enumerate_responses(reference, ids, then_ends=True)
    texts = [responses.text(reference, index) for index in range(len(responses.logps))]
    rows = _fresh_pairs(exact_frontier(reference, PROMPTS, score), texts, seed=1)
    config = TrainConfig(
        beta=1.0, steps=STEPS, batch_pairs=BATCH, learning_rate=1e-3, held_out=0.0, eval_every=0,
        eval_pairs=0, kl_samples=0, micro_batch_tokens=8192,
    )  # fmt: skip
    job = prepare(config, data=rows)
    assert len(job.train) == STEPS * BATCH
    for _ in train(job):
        pass
    # Held-out prompts are among those trained on here: the optimum of each is known.
    frontier = exact_frontier(reference, HELD_OUT_PROMPTS, score)
    policy = torch.stack([
        enumerate_responses(job.policy, ids, then_ends=True).logps
        for ids in job.policy.encoder.prompts(list(HELD_OUT_PROMPTS))
    ])  # fmt: skip
    kl = exact_kl(policy, frontier.reference_logps).mean().item()
    reward = expected_reward(policy, frontier.rewards).mean().item()
    optimum = frontier.at(1.0)
    assert reward >= 0.98 * frontier.at_kl(kl).reward
    assert frontier.efficiency(kl, reward) >= 0.98
    assert kl == pytest.approx(optimum.kl, rel=0.1)
    assert reward == pytest.approx(optimum.reward, rel=0.05)
