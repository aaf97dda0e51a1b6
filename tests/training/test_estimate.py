import json
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from dpo_lab.data.batching import Batch
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.estimate import best_product, estimate
from dpo_lab.training.learner import Learner
from dpo_lab.training.setup import prepare

MICRO = TrainConfig(steps=4, batch_pairs=8, limit=64, eval_every=0, eval_pairs=0)
WEIGHTS = 118_176
"""Of micro, as its card says."""


def test_weights_gradients_and_optimiser_are_counted_to_the_byte():
    memory = estimate(MICRO).memory
    assert memory["weights"] == memory["gradients"] == pytest.approx(4 * WEIGHTS / 1e9)
    assert memory["optimiser"] == pytest.approx(8 * WEIGHTS / 1e9)
    assert estimate(replace(MICRO, optimizer="rmsprop")).memory["optimiser"] == memory["weights"]


def test_the_reference_is_counted_where_it_is_kept(tmp_path):
    """For evaluations, and for the score of before and after, which a file does not come with."""
    rows = [{"prompt": f"the plot {v}", "chosen": "good", "rejected": "bad"} for v in "abcd"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = replace(MICRO, data=str(tmp_path / "own.jsonl"), batch_pairs=2)
    kept = [own, replace(own, eval_every=2), MICRO]
    counted = [estimate(config).memory["reference"] for config in kept]
    assert counted == pytest.approx([0, 4 * WEIGHTS / 1e9, 4 * WEIGHTS / 1e9])


def test_devices_divide_pairs_or_weights_too():
    """By hand: 2 x 38 x 96 weights of embedding and head and 96 of a norm lie outside the layer."""
    alone, ddp, fsdp = estimate(MICRO), estimate(MICRO, 2), estimate(MICRO, 2, "fsdp")
    assert ddp.memory["weights"] == alone.memory["weights"]
    assert ddp.memory["optimiser"] == alone.memory["optimiser"]
    assert alone.work <= ddp.work < 1.1 * alone.work, "some share a prompt"
    assert 0.5 <= ddp.seconds(1e9) / alone.seconds(1e9) < 0.7, "not quite evenly"
    for name in ("weights", "gradients", "optimiser"):
        assert fsdp.memory[name] == pytest.approx(alone.memory[name] / 2)
    outside = 2 * 38 * 96 + 96
    few = replace(MICRO, batch_pairs=1)
    assert estimate(few, 3).seconds(1e9) == pytest.approx(estimate(few).seconds(1e9)), "two wait"
    gathered = outside + 2 * (WEIGHTS - outside)
    assert fsdp.memory["gathered"] == pytest.approx(4 * gathered / 1e9)
    assert "gathered" not in {name for name, size in ddp.memory.items() if size}


def test_what_is_not_estimated_is_refused():
    with pytest.raises(ValueError, match="gradient_checkpointing=True: what it saves is not"):
        estimate(replace(MICRO, gradient_checkpointing=True))
    with pytest.raises(ValueError, match="method=rloo: what its samples take is not estimated"):
        estimate(replace(MICRO, method="rloo"))


def test_model_and_tokenizer_are_those_of_the_revision(tmp_path, monkeypatch):
    """Two commits of one repository, of which one writes some prompts in fewer tokens."""
    from dpo_lab.models.weights import save_model

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--own"
    (repository / "refs").mkdir(parents=True)
    for branch, commit in (("main", "a" * 40), ("old", "b" * 40)):
        (repository / "refs" / branch).write_text(commit)
        lm = load_model("micro")
        if branch == "old":
            lm.tokenizer.add_tokens(["plot seemed", "acting felt", "camera felt"])
            lm.model.resize_token_embeddings(len(lm.tokenizer), mean_resizing=False)
        save_model(lm, repository / "snapshots" / commit)
    tokens = {
        branch: estimate(replace(MICRO, model="someone/own", revision=branch)).tokens
        for branch in ("main", "old")
    }
    assert tokens["main"] == estimate(MICRO).tokens
    assert tokens["old"] < tokens["main"]


def test_lora_trains_what_the_real_adapter_trains():
    memory = estimate(replace(MICRO, lora_rank=4, eval_every=2)).memory
    real = add_lora(load_model("micro"), 4).model
    trained = sum(weight.numel() for weight in real.parameters() if weight.requires_grad)
    assert memory["gradients"] == pytest.approx(4 * trained / 1e9)
    assert memory["reference"] == 0, "the adapter switched off"


def batches_of(job) -> list[Batch]:
    """Of the four steps, each of which is one micro-batch."""
    order, found = Learner(job).order, []
    for step in range(4):
        pairs = [job.train.tokens[index] for index in order.batch(step)]
        sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
        found.append(job.scorer.batch(sides))
    return found


def test_tokens_are_those_of_the_run():
    batches, cost = batches_of(prepare(MICRO)), estimate(MICRO)
    tokens = sum(batch.input_ids.numel() for batch in batches)
    scored = sum(len(batch.targets) for batch in batches)
    assert (cost.tokens, cost.scored, cost.micro_batches) == (tokens / 4, scored / 4, 1)


@pytest.mark.parametrize("rank", [None, 4])
def test_activations_are_those_of_a_real_pass(rank):
    """The numbers a pass on real weights keeps, counted by storage, and half again for the heap."""
    lm = load_model("micro")
    if rank:
        lm = add_lora(lm, rank)
    lm.model.train()
    weights = {weight.data_ptr() for weight in lm.model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = lm.base.model(input_ids=torch.zeros(1, 400, dtype=torch.long), use_cache=False)
    assert output is not None
    most = max(batch.input_ids.numel() for batch in batches_of(prepare(MICRO)))
    estimated = estimate(replace(MICRO, lora_rank=rank)).memory["activations"]
    assert estimated == pytest.approx(1.5 * most * sum(kept.values()) / 400 / 1e9, rel=0.15)


def test_work_is_six_operations_a_weight_and_token():
    cost = estimate(MICRO)
    head, norms = 38 * 96, 3 * 96
    trunk = WEIGHTS - 2 * head - norms  # the embedding is looked up, not multiplied
    assert cost.work == pytest.approx(6 * trunk * cost.tokens + 8 * head * cost.scored)
    assert cost.seconds(1e9) == pytest.approx(2 * cost.seconds(2e9))
    assert cost.work / 1e9 < cost.seconds(1e9) < 3 * cost.work / 1e9, "some of the best product"


def test_the_best_product_is_that_of_the_fastest_of_some(monkeypatch):
    """Three products of 10 x 10 matrices, 2000 operations each, in 4, 0.5 and 1 seconds."""
    clock = iter((0, 4, 10, 10.5, 20, 21))
    monkeypatch.setattr("dpo_lab.training.estimate.time.perf_counter", lambda: next(clock))
    assert best_product(torch.device("cpu"), size=10, repeats=3) == 4000
