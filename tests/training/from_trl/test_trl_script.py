"""A script written for TRL, run by TRL and, with another import line, by the lab."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl_cases import rows, run_script, save_tiny_model, write_rows

pytest.importorskip("trl", minversion="1.16")
events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
NOT_HERE = {"entropy", "num_tokens", "logits/chosen", "logits/rejected", "mean_token_accuracy"}
"""What TRL logs of logits, which the lab does not build."""
CLOCKS = ("runtime", "_per_second", "flos")


@pytest.fixture(
    scope="module",
    params=[("explicit", "full"), ("conversational", "lora")],
    ids="-".join,
)
def both(request, tmp_path_factory, one_thread):
    """The names of the script at its end: with TRL, and with the lab."""
    shape, adapter = request.param
    folder = tmp_path_factory.mktemp("script")
    model, data = save_tiny_model(folder / "model"), write_rows(folder / "d.jsonl", rows(44, shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_LAB_CACHE", str(folder / "cache"))
        yield tuple(
            run_script([model, data, folder / side, adapter], patch, side)
            for side in ("trl", "lab")
        )


def history(names: dict) -> list[dict]:
    return names["trainer"].state.log_history


def comparable(logs: dict, prefixes: tuple[str, ...] = ("", "eval_")) -> dict:
    left_out = {prefix + key for key in NOT_HERE for prefix in prefixes}
    return {k: v for k, v in logs.items() if k not in left_out and not k.endswith(CLOCKS)}


def test_every_logged_number_is_trls(both):
    """Losses, rewards, log-probabilities, gradients and learning rates, at every one of ten steps.

    Rows are shuffled, the last batch of an epoch is smaller, two batches accumulate, the schedule
    warms up, weights decay, and the reference is that of TRL.
    """
    theirs, ours = map(history, both)
    assert [logs["step"] for logs in ours] == [logs["step"] for logs in theirs]
    assert max(logs["step"] for logs in ours) == 10
    compared = 0
    for mine, other in zip(ours, theirs, strict=True):
        other = comparable(other)
        assert {key: mine[key] for key in other} == pytest.approx(other, abs=1e-4)
        compared += len(other)
    assert compared > 130
    losses = [logs["loss"] for logs in ours if "loss" in logs]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) and losses[-1] < 0.68


def test_callbacks_hear_the_same(both):
    theirs, ours = (names["watch"].events for names in both)
    assert ours == theirs
    assert "save 5" in ours and any(event.startswith("evaluate 10") for event in ours)


def test_the_weights_are_the_same(both):
    states = [names["trainer"].model.state_dict() for names in both]
    assert states[0].keys() == states[1].keys()
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, atol=1e-4, rtol=0, msg=name)


def test_folders_are_where_transformers_puts_them(both):
    trl, lab = (names["output_dir"] for names in both)
    for step in (5, 10):
        first, second = (
            AutoModelForCausalLM.from_pretrained(f"{output}/checkpoint-{step}")
            for output in (trl, lab)
        )
        for (name, weight), other in zip(
            first.named_parameters(), second.parameters(), strict=True
        ):
            torch.testing.assert_close(other, weight, atol=1e-4, rtol=0, msg=name)


def test_results_have_the_same_fields(both):
    theirs, ours = (names["result"] for names in both)
    assert ours.global_step == theirs.global_step
    assert ours.training_loss == pytest.approx(theirs.training_loss, abs=1e-4)
    assert set(theirs.metrics) - set(ours.metrics) <= {"total_flos"}
    theirs, ours = (comparable(names["metrics"]) for names in both)
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-4)


def test_tensorboard_holds_kl_beside_trls_numbers(both):
    """The files have every tag of TRL's, with its values, and the KL of the lab's evaluations."""
    found = []
    for names in both:
        (folder,) = Path(names["output_dir"], "runs").iterdir()
        reader = events.EventAccumulator(str(folder)).Reload()
        tags = reader.Tags()["scalars"]
        found.append({tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags})
    theirs, ours = found
    shared = {tag for tag in theirs if not tag.endswith((*NOT_HERE, *CLOCKS))}
    assert shared <= set(ours) and "train/rewards/margins" in shared and "eval/loss" in shared
    for tag in shared:
        assert [step for step, _ in ours[tag]] == [step for step, _ in theirs[tag]]
        values = [value for _, value in theirs[tag]]
        assert [value for _, value in ours[tag]] == pytest.approx(values, abs=1e-4)
    logged = [logs for logs in history(both[1]) if "eval_kl/per_token" in logs]
    assert [logs["step"] for logs in logged] == [5, 10, 10]  # the last of them by evaluate()
    for key in ("kl/per_token", "kl/k1", "kl/per_token_stderr"):
        values = [value for _, value in ours[f"eval/{key}"]]
        assert values == pytest.approx([logs[f"eval_{key}"] for logs in logged], rel=1e-5)
        assert min(values) > 0.01
