"""What only a GPU shows; the rest is tested on the CPU. Skipped, so not measured, without one."""

import os
import subprocess
import sys

import pytest
import torch
from exported_runs import tiny_run
from tiny import branching_sequences, make_language_model

from dpo_lab.data.packing import pack
from dpo_lab.kernels.tree_attention import BLOCK, TreeMasks, tree_attention
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create
from dpo_lab.ui.export.export_run import export_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_flex_attention_is_attention_with_the_masks_written_out():
    """Values and gradients, float32, one row of a whole number of blocks."""
    batch = pack(branching_sequences()).filled_up(BLOCK, 0)
    width = batch.input_ids.shape[1]
    leaves = [torch.randn(1, 4, width, 16, device="cuda", requires_grad=True) for _ in range(3)]
    found = []
    for device in ("cuda", "cpu"):
        there = [leaf.detach().to(device).requires_grad_() for leaf in leaves]
        masks = TreeMasks.of(batch.to(device).trees, torch.float32)
        output, _ = tree_attention(torch.nn.Identity(), *there, None, trees=masks, scaling=0.25)
        output.square().sum().backward()
        found.append([output.cpu(), *(leaf.grad.cpu() for leaf in there)])
    for on_gpu, on_cpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision, nats", [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_packed_rows_give_what_padded_ones_give(precision, nats):
    lm = make_language_model("Llama")
    lm.model.cuda()
    sequences = branching_sequences()
    packed, padded = (
        LogpScorer.probed(lm, precision, packing=packing) for packing in (True, False)
    )
    assert packed.packing
    with torch.no_grad():
        logps = [scorer.logps(scorer.batch(sequences)) for scorer in (packed, padded)]
    longest = max(len(response) for _, response in sequences)
    torch.testing.assert_close(*logps, rtol=0, atol=nats * longest)


def test_a_run_broken_off_goes_on(tmp_path):
    config = TrainConfig(model="micro", data="reviews", steps=8, batch_pairs=8, eval_every=4)
    whole = [record for record in train(prepare(config))]
    for last in (4, 8):
        job = prepare(config)
        assert job.policy.device.type == "cuda"
        for record in train(job, run=open_or_create(Run(tmp_path / "run"), job, resume=True)):
            if record.step == last:
                break
    for one, other in zip(whole, Run(tmp_path / "run").records(), strict=True):
        assert other.values == pytest.approx(one.values, rel=1e-3, abs=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_train_one_run(tmp_path, strategy):
    words = ["--model", "micro", "--data", "reviews", "--steps", "8", "--processes", "2"]
    words += ["--strategy", strategy, "--precision", "float32", "--out", str(tmp_path / "run")]
    subprocess.run(
        [sys.executable, "-m", "dpo_lab", "train", *words], env=dict(os.environ), check=True
    )
    config = TrainConfig(model="micro", data="reviews", steps=8, precision="float32")
    alone = [record for record in train(prepare(config))]
    for one, other in zip(alone[1:], Run(tmp_path / "run").records()[1:], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-4)


def test_qlora_trains_and_its_merge_is_the_policy(tmp_path):
    """Trained with products in bfloat16, compared with products in float32."""
    pytest.importorskip("bitsandbytes")
    run = tiny_run(tmp_path, lora_rank=4, quantize="4bit", device="cuda")
    losses = [record["loss"] for record in run.records() if record.get("loss") is not None]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < 0.6
    done = export_run(run, tmp_path / "out", merge=True, also=["8bit"], device="cuda")
    assert done.agreements[0].largest < 1e-3
    assert done.agreements[1].kl_per_token < 0.1
