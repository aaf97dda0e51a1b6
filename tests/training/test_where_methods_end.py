"""Where each placement of the KL ends, trained long on micro with exact expected gradients.

The world is micro's answers of at most two words to one prompt, after which an answer ends: 1,407,
each with the log-probabilities of its tokens from 38 next-token distributions.
"""

import copy
from dataclasses import replace

import pytest
import torch

from dpo_lab.data import reviews
from dpo_lab.models.loading import load_model
from dpo_lab.objective.optimum import exact_kl, optimal_logps, rlhf_objective
from dpo_lab.objective.policy_gradient import RLOO, policy_gradient_loss

pytestmark = pytest.mark.slow
PROMPT = "the plot was"
NEITHER = 20
"""Times as far from pi* as what is said to reach it."""


class World:
    """All answers of at most two words, and what each is worth."""

    def __init__(self):
        torch.set_num_threads(1)
        self.micro = load_model("micro", device="cpu")
        encoder = self.micro.encoder
        (self.prompt,), (self.end,) = encoder.prompts([PROMPT]), encoder.end_ids
        vocabulary = self.micro.model.config.vocab_size
        self.words = [token for token in range(vocabulary) if token != self.end]
        answers = [(), *((a,) for a in self.words)]
        answers += [(a, b) for a in self.words for b in self.words]
        texts = [self.micro.tokenizer.decode(answer) for answer in answers]
        self.rewards = torch.tensor([reviews.reward(PROMPT, text) for text in texts]).double()
        self.lengths = torch.tensor([len(answer) for answer in answers])
        self.mask = torch.arange(3) <= self.lengths[:, None]
        self.mask[self.lengths == 2, 2] = False  # it ends there: nothing is drawn
        with torch.no_grad():
            self.reference = self.token_logps(self.micro.model)

    def token_logps(self, model) -> torch.Tensor:
        """Of each answer's tokens, its end among them, `(answers, 3)`."""
        prefixes = [self.prompt, *((*self.prompt, word) for word in self.words)]
        first = model(torch.tensor([prefixes[0]])).logits[:, -1].double().log_softmax(-1)[0]
        then = model(torch.tensor(prefixes[1:])).logits[:, -1].double().log_softmax(-1)
        count, zero = len(self.words), first.new_zeros
        one = torch.stack([first[self.words], then[:, self.end], zero(count)], dim=1)
        two = torch.stack([
            first[self.words].repeat_interleave(count), then[:, self.words].flatten(),
            zero(count * count),
        ], dim=1)  # fmt: skip
        none = torch.stack([first[self.end], *zero(2)])
        return torch.cat([none[None], one, two])

    def trained(self, how, beta, steps=600) -> torch.Tensor:
        """`log pi(y|x)` after training with the expected gradient of a placement."""
        model = copy.deepcopy(self.micro.model)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            logps = self.token_logps(model)
            shaped = logps[None], self.reference[None], self.mask[None], self.rewards[None]
            losses = policy_gradient_loss(*shaped, beta, replace(how, baseline="none"))
            optimizer.zero_grad()
            (logps.sum(-1).exp().detach() * losses[0]).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return self.token_logps(model).sum(-1)

    def share(self, logps, beta) -> float:
        """Gain in J over the reference, as a share of that of pi*."""
        reference = self.reference.sum(-1)
        star = optimal_logps(reference, self.rewards, beta)
        found, most, least = (
            rlhf_objective(each, reference, self.rewards, beta) for each in (logps, star, reference)
        )
        return ((found - least) / (most - least)).item()


@pytest.fixture(scope="module")
def world():
    return World()


def test_the_world_is_whole(world):
    reference = world.reference.sum(-1)
    assert reference.exp().sum().item() == pytest.approx(1, abs=1e-6) and len(reference) == 1407
    assert torch.equal(world.reference[~world.mask], torch.zeros((~world.mask).sum()).double())


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("how", [RLOO, replace(RLOO, estimator="k2", place="loss")],
                         ids=["k1 in the reward", "k2 of answers in the loss"])  # fmt: skip
def test_the_right_placements_reach_the_optimum(world, how, beta):
    assert world.share(world.trained(how, beta), beta) > 0.999


def test_k3_of_answers_in_the_loss_reaches_its_own_closed_form(world):
    """`pi = ref / (l - r / beta)`, at a beta at which that is below one for every answer."""
    beta, reference = 8.0, world.reference.sum(-1)
    low, high = world.rewards.max().item() / beta, 10.0
    for _ in range(200):  # l by halving: the sum falls as l rises
        middle = (low + high) / 2
        total = (reference.exp() / (middle - world.rewards / beta)).sum().item()
        low, high = (middle, high) if total > 1 else (low, middle)
    own = reference - (high - world.rewards / beta).log()
    assert own.exp().sum().item() == pytest.approx(1, abs=1e-6)
    found = world.trained(replace(RLOO, estimator="k3", place="loss"), beta)
    star = optimal_logps(reference, world.rewards, beta)
    to_own, to_star = exact_kl(found, own).item(), exact_kl(found, star).item()
    assert to_star > NEITHER * to_own, (to_own, to_star)
    assert exact_kl(own, star).item() == pytest.approx(to_star, rel=0.2)


@pytest.mark.parametrize(
    "how",
    [
        replace(RLOO, unit="token"),
        replace(RLOO, estimator="k2", place="loss", unit="token"),
        replace(RLOO, estimator="k3", place="loss", unit="token"),
    ],
    ids=["k1 in the reward", "k2 in the loss", "k3 in the loss"],
)
def test_forms_of_a_tokens_own_term_end_elsewhere(world, how):
    right = world.share(world.trained(RLOO, 1.0), 1.0)
    assert 1 - world.share(world.trained(how, 1.0), 1.0) > NEITHER * (1 - right)
