"""LoRA where there is an adapter already, and what the reference is then."""

import copy
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import make_language_model, plain_log_probs, plain_logp, shake, some_sequences
from transformers import AutoModelForCausalLM

from dpo_lab.analysis.displacement import token_displacement
from dpo_lab.models.kl import measure_kl
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.reference import Reference
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer, score_sequences
from dpo_lab.models.weights import save_model, weights_fingerprint
from dpo_lab.training import policy as module
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.policy import ready_policy
from dpo_lab.training.setup import prepare

ROWS = [
    {"prompt": f"where is {word}", "chosen": f" {word} is there", "rejected": " no" * (at + 1)}
    for at, word in enumerate(["the answer", "it", "there", "yes"])
]
SEQUENCES = some_sequences(4)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DPO_LAB_CACHE", str(tmp_path / "cache"))


def job_of(tmp_path, model=None, name="test", **options):
    config = {"model": name, "held_out": 0, "eval_every": 0, "batch_pairs": 4, "steps": 3}
    config |= {"learning_rate": 1e-2, "schedule": "constant", "device": "cpu"}
    cache = ReferenceCache(tmp_path / "reference.sqlite")
    return prepare(TrainConfig(**config | options), model=model, data=ROWS, cache=cache)


def moved_adapter(targets=None):
    """A base, and a policy of it with an adapter that changes it."""
    lm = make_language_model()
    base = copy.deepcopy(lm.model)
    policy = add_lora(lm, 4, targets=targets)
    shake(policy.model, 0.2, seed=1, only="lora_B")
    return base, policy


@pytest.mark.parametrize("targets", [None, ("q_proj", "lm_head")], ids=["trunk", "head"])
@torch.no_grad()
def test_the_reference_is_measured_with_its_adapter_off(targets):
    """Wherever policy and reference are compared: KL and shares, in trunk and in head."""
    base, policy = moved_adapter(targets)
    prompts = [prompt for prompt, _ in SEQUENCES]
    answers = sample(policy, prompts, max_new_tokens=5)
    scorer = LogpScorer.probed(policy)
    by_hand = []
    for answer in answers:
        after = plain_log_probs(policy.model, answer.prompt, answer.ids)
        before = plain_log_probs(base, answer.prompt, answer.ids)
        by_hand.append((after.exp() * (after - before)).sum())
    expected = torch.stack(by_hand).mean().item()
    assert expected > 0.1, "the adapter must move the policy"
    found = measure_kl(scorer, Reference(scorer), answers)
    assert found.per_token.mean == pytest.approx(expected, rel=1e-4)

    prompt, response = SEQUENCES[0]
    before = plain_log_probs(base, prompt, response).exp()
    steps = token_displacement(scorer, Reference(scorer), prompt, response)
    for place, step in enumerate(steps):
        assert step.own.before == pytest.approx(before[place, response[place]].item(), rel=1e-4)


def test_an_adapter_handed_over_is_a_part_of_the_reference(tmp_path):
    """It is trained further; the reference is what it was, not its base."""
    base, policy = moved_adapter()
    before = [plain_logp(policy.model, *sequence).item() for sequence in SEQUENCES]
    of_base = [plain_logp(base, *sequence).item() for sequence in SEQUENCES]
    job = job_of(tmp_path, policy)
    job.reference.keep()
    losses = [record.values["loss"] for record in train(job)]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5) and losses[2] < losses[0] - 0.01
    with job.reference.active() as reference:
        found = score_sequences(reference, SEQUENCES).tolist()
    assert found == pytest.approx(before, abs=1e-4) and found != pytest.approx(of_base, abs=0.1)
    own = dict(job.policy.base.named_parameters())
    for name, weight in base.named_parameters():
        trained = own.get(name, own.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(trained, weight), name


def test_a_new_adapter_on_a_model_with_one_merges_that_first(tmp_path, caplog):
    """The checkpoint loads with its base by this lab and by PEFT."""
    base, sft = tmp_path / "base", tmp_path / "sft"
    save_model(make_language_model(), base)
    first = add_lora(load_model(base, device="cpu"), 4)
    shake(first.model, 0.2, seed=1, only="lora_B")
    save_model(first, sft)
    job = job_of(tmp_path, name=str(sft), lora_rank=2)
    assert "its adapter is merged into its base first" in caplog.text
    with job.reference.active() as reference:
        found = score_sequences(reference, SEQUENCES)
    expected = score_sequences(LogpScorer.probed(first), SEQUENCES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert sum(record.step for record in train(job)) == 6
    save_model(job.policy, tmp_path / "saved")
    trained = score_sequences(job.scorer, SEQUENCES)
    assert (trained - expected).abs().max() > 0.01
    again = load_model(tmp_path / "saved", device="cpu")
    torch.testing.assert_close(
        score_sequences(LogpScorer.probed(again), SEQUENCES), trained, rtol=0, atol=1e-4
    )
    (merged,) = (tmp_path / "cache" / "merged").iterdir()
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(merged), tmp_path / "saved"
    )
    for sequence, value in zip(SEQUENCES, trained, strict=True):
        assert abs(plain_logp(theirs, *sequence).item() - value) < 1e-4


def test_two_processes_merge_the_same_adapter_at_once(tmp_path, monkeypatch):
    """The other one's folder comes into being while this one writes its own."""
    lm = load_model("micro", device="cpu")
    policy = add_lora(lm, 2)
    shake(policy.model, 0.2, seed=1, only="lora_B")
    save_model(policy, tmp_path / "adapter")
    merged = load_model(tmp_path / "adapter", device="cpu")
    expected = {name: weight.clone() for name, weight in merged.model.state_dict().items()}
    name = weights_fingerprint(merged.model)
    there = tmp_path / "cache" / "merged" / name

    def beside_another(model, folder):
        save_model(model, folder)
        shutil.copytree(folder, there)

    monkeypatch.setattr(module, "save_model", beside_another)
    config = TrainConfig(model=str(tmp_path / "adapter"), lora_rank=2, device="cpu")
    ready = ready_policy(config)
    assert ready.model.name_or_path == str(there) and list(there.parent.iterdir()) == [there]
    saved = load_file(there / "model.safetensors")
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
