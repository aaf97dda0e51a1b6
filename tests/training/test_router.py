"""A mixture of experts' balancing loss beside transformers' own."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from tiny import SIZE, make_language_model, make_tokenizer, shake
from transformers import MixtralConfig, MixtralForCausalLM

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.models.expert_balance import Routers
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training.learner import Learner

ROWS = [{"prompt": "where is it", "chosen": " here", "rejected": " nowhere to be found"}]
CONFIG = TrainConfig(
    model="test", held_out=0, eval_every=0, batch_pairs=1, steps=2, schedule="constant",
    learning_rate=1e-2, device="cpu", warmup_steps=0,
)  # fmt: skip


def mixtral() -> LanguageModel:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=320, num_local_experts=4, num_experts_per_tok=2, intermediate_size=48,
        num_key_value_heads=2, pad_token_id=None, bos_token_id=0, eos_token_id=1, **SIZE,
    )  # fmt: skip
    model = shake(MixtralForCausalLM(config), 0.1, 0).float()
    return LanguageModel(model, make_tokenizer(), "mixtral", "test")


def job_of(lm: LanguageModel, folder, **changes):
    cache = ReferenceCache(folder / "reference.sqlite")
    return prepare(replace(CONFIG, **changes), model=lm, data=ROWS, cache=cache)


@pytest.mark.parametrize("weight", [None, 0.5])
def test_the_gradient_is_dpos_and_that_of_transformers_balancing_loss(weight, tmp_path):
    """The packed row holds the prompt once and both responses after it: three plain passes make it.

    Tokens of a packed row are those of prompt, chosen and rejected; their router logits are those
    of plain passes over prompt with chosen and with rejected, the latter from where they part, each
    without its last token, which predicts nothing and is not run.
    """
    job = job_of(mixtral(), tmp_path, router_aux_loss_coef=weight)
    assert job.scorer.packing
    learner, pair = Learner(job), job.train.tokens[0]
    outcome = learner.accumulate([0])
    got = {n: p.grad.clone() for n, p in job.policy.model.named_parameters() if p.grad is not None}
    plain = mixtral().model.eval()
    alike = len(os.path.commonprefix([pair.chosen, pair.rejected]))
    sides, logits = [], []
    for response in (pair.chosen, pair.rejected):
        ids = torch.tensor([[*pair.prompt, *response]])
        output = plain(input_ids=ids, output_router_logits=True)
        table = output.logits[0, len(pair.prompt) - 1 : -1].log_softmax(-1)
        sides.append(table.gather(-1, torch.tensor(response)[:, None]).sum())
        skip = 0 if not logits else len(pair.prompt) + alike
        logits.append([layer[skip:-1] for layer in output.router_logits])
    joined = tuple(torch.cat(layer) for layer in zip(*logits, strict=True))
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    balance = load_balancing_loss_func(joined, 4, 2)
    margin = (sides[0] - sides[0].detach()) - (sides[1] - sides[1].detach())
    loss = -torch.nn.functional.logsigmoid(CONFIG.beta * margin) + (weight or 0) * balance
    loss.backward()
    assert outcome.losses.item() == pytest.approx(0.693147, abs=1e-5)
    if weight:
        assert outcome.balance == pytest.approx(balance.item(), abs=1e-5) and balance > 2
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 0:
            torch.testing.assert_close(got[name], parameter.grad, atol=2e-5, rtol=1e-3)


def test_tokens_that_fill_a_row_up_are_not_balanced(tmp_path):
    job = job_of(mixtral(), tmp_path)
    routers, pair = Routers.of(job.policy.base, "mixtral"), job.train.tokens[0]
    batch = job.scorer.batch([(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)])
    losses = []
    for row in (batch, batch.filled_up(32, pair.prompt[0])):
        with routers.recorded() as logits:
            job.scorer.logps(row)
        losses.append(routers.loss(logits, row).item())
        assert len(logits[0]) == row.input_ids.shape[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_its_value_is_in_the_records_and_training_lowers_it(tmp_path):
    job = job_of(mixtral(), tmp_path, router_aux_loss_coef=5.0, steps=20)
    values = [record["router/aux_loss"] for record in train(job)]
    assert len(values) == 20 and values[-1] < values[0]
    plain = job_of(mixtral(), tmp_path)
    assert all("router/aux_loss" not in record.values for record in train(plain))


def test_a_model_without_routers_is_refused(tmp_path):
    job = job_of(make_language_model(), tmp_path, router_aux_loss_coef=0.1, prompt_format="plain")
    with pytest.raises(ValueError, match="has no routers that transformers balances"):
        Learner(job)
