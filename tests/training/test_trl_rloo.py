"""A step of RLOO beside TRL's own trainer; skipped where TRL (extra `bench`) is not installed."""

import copy

import pytest
import torch
from datasets import Dataset

from dpo_lab.models.loading import load_model
from dpo_lab.objective.policy_gradient import advantages
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.groups import draw_groups
from dpo_lab.training.on_policy import group_losses
from dpo_lab.training.setup import prepare

trl = pytest.importorskip("trl", minversion="1.16")
K, BETA = 4, 0.5


@pytest.mark.slow
def test_a_step_has_the_advantages_and_the_gradient_of_trl(tmp_path):
    """The same tiny model, prompts, sampled ids and rewards, fed to both."""
    config = TrainConfig(method="rloo", samples=K, steps=2, eval_every=0, limit=40, device="cpu")
    job = prepare(config)
    reference = copy.deepcopy(job.policy.model)
    with torch.no_grad():
        for number, weight in enumerate(job.policy.model.parameters()):
            generator = torch.Generator().manual_seed(number)
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    indices = [0, 3, 7, 11, 12]
    groups = draw_groups(job, indices, 0)
    losses, (policy, before) = group_losses(job.scorer, job.reference, groups, BETA)
    losses.mean().backward()
    ours = torch.cat([weight.grad.flatten() for weight in job.policy.model.parameters()])
    ratios = (policy - before).view(-1, K)
    our_advantages = advantages(groups.rewards.float() - BETA * ratios, "leave-one-out")

    class Fed(trl.RLOOTrainer):
        """TRL's trainer with our samples in place of its own."""

        def _generate(self, prompts):
            every = [(list(prompt), list(answer)) for prompt, answer in groups.sequences]
            texts = [answer.text for answer in groups.completions]
            return [p for p, _ in every], [a for _, a in every], texts

    rewards = groups.rewards.flatten().tolist()
    micro = load_model("micro", device="cpu")
    trainer = Fed(
        model=copy.deepcopy(job.policy.model),
        reward_funcs=lambda **inputs: rewards,
        args=trl.RLOOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=len(rewards),
            num_generations=K,
            beta=BETA,
            temperature=1.0,
            max_completion_length=48,
            normalize_advantages=False,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": "the plot was"}] * 20),
        processing_class=micro.tokenizer,
    )
    trainer.ref_model.load_state_dict(reference.state_dict())
    inputs = trainer._generate_and_score_completions([{"prompt": "the plot was"}] * len(rewards))
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, inputs).backward()
    theirs = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    torch.testing.assert_close(inputs["advantages"].view(-1, K), our_advantages, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert our_advantages.abs().max() > 0.5 and ours.abs().max() > 0.1 and ratios.abs().max() > 0.1
