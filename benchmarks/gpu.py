"""Everything about one GPU in ten minutes: is it right, how fast is it, what does it take.

    python benchmarks/gpu.py [--json FILE] [--only speed resume] [--minutes 10]
    python benchmarks/gpu.py --table FILE

It needs no network and few packages: random weights in the shapes of real models, words as tokens,
pairs with a common prompt. TRL's rows and the live figure are measured where TRL and the widgets
are installed. Without a GPU it runs the same on a tiny model on the CPU, to show that it can; those
numbers say nothing about speed. A part that fails says why, and the others go on. Results so far
are in the file after every part.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_material import Plan, job, language_model, pairs, timed, wait

from dpo_lab.data.packing import pack
from dpo_lab.kernels.lean_layers import LeanLayers
from dpo_lab.kernels.tree_attention import BLOCK, block_mask
from dpo_lab.models.kl import measure_kl
from dpo_lab.models.sampling import sample
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.estimate import multiplied_weights
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.start_or_resume import open_or_create

RESULT = Path(__file__).parent / "results" / "gpu.json"


def right(plan: Plan) -> Iterator[dict]:
    """Packed rows beside padded ones: log-probabilities, and the gradient of a mean margin."""
    for precision in ("float32", "bfloat16"):
        lm = language_model(plan, plan.models[0])
        sequences = [
            (pair.prompt, side)
            for pair in job(plan, lm, plan.lengths[0], 4, precision="float32").train.tokens[:4]
            for side in (pair.chosen, pair.rejected)
        ]
        found = {}
        for packing in (True, False):
            scorer = LogpScorer.probed(lm, precision, packing=packing)
            lm.model.zero_grad()
            logps = scorer.logps(scorer.batch(sequences))
            (logps[::2].mean() - logps[1::2].mean()).backward()
            grads = [w.grad.float().flatten() for w in lm.model.parameters() if w.grad is not None]
            found[packing] = logps.detach(), torch.cat(grads), scorer.packing
        (logps, grad, packed), (padded_logps, padded_grad, _) = found[True], found[False]
        tokens = torch.tensor([len(response) for _, response in sequences], device=logps.device)
        yield {
            "model": plan.models[0],
            "precision": precision,
            "packs": packed,
            "nats_per_token": ((logps - padded_logps).abs() / tokens).max().item(),
            "gradient": ((grad - padded_grad).norm() / padded_grad.norm()).item(),
        }


def attention(plan: Plan) -> Iterator[dict]:
    """Time to the first step, compilations over steps of varied lengths, time to make the mask."""
    lm = language_model(plan, plan.models[0])
    prepared = job(plan, lm, plan.lengths[-1], plan.batches[0], steps=plan.varied, even=False)
    learner, before, times = Learner(prepared), graphs(), []
    for _ in range(plan.varied):
        times.append(timed(plan, learner.take_step))
    trees = [
        pack(
            [
                (pair.prompt, side)
                for pair in (prepared.train.tokens[i] for i in learner.order.batch(0))
                for side in (pair.chosen, pair.rejected)
            ]
        )
        .filled_up(BLOCK, 0)
        .to(plan.device)
        .trees
    ]
    masks = [timed(plan, lambda: block_mask(trees[0])) for _ in range(20)]
    yield {
        "model": plan.models[0],
        "first_step_s": times[0],
        "median_step_s": statistics.median(times[2:]),
        "slowest_after_first_s": max(times[1:]),
        "compilations": graphs() - before,
        "row": len(trees[0].subtree_end),
        "block_mask_ms": 1e3 * statistics.median(masks),
    }


def speed(plan: Plan) -> Iterator[dict]:
    """Pairs a second, peak memory and the share of the best bf16 product, by method."""
    product = best_product(plan)
    yield {"best_product_tflops": product / 1e12}
    for name in plan.models:
        for longest in plan.lengths:
            for batch in plan.batches:
                for method, options in {"lab": {}, "lab, LoRA": {"lora_rank": 16}}.items():
                    row = {"model": name, "length": longest, "batch": batch, "method": method}
                    yield row | guarded(lab, plan, name, longest, batch, options, product)
                for method, options in TRL.items():
                    row = {"model": name, "length": longest, "batch": batch, "method": method}
                    yield row | guarded(trl, plan, name, longest, batch, options)


def lean(plan: Plan) -> Iterator[dict]:
    """Lean layers beside plain ones, in float32 and, on a GPU, in bfloat16."""
    for precision in ("float32", "bfloat16") if plan.bf16 else ("float32",):
        for kind in ("plain", "lean"):
            lm = language_model(plan, plan.models[-1])
            learner = Learner(job(plan, lm, plan.lengths[0], plan.batches[0], precision=precision))
            learner.gradient.lean = LeanLayers(lm.model) if kind == "lean" else nullcontext
            what = {"model": plan.models[-1], "precision": precision, "layers": kind}
            yield what | guarded(stepped, plan, learner)


def compiled(plan: Plan) -> Iterator[dict]:
    """The trunk under `torch.compile` beside the plain one."""
    for kind in ("plain", "compiled"):
        lm = language_model(plan, plan.models[0])
        learner = Learner(job(plan, lm, plan.lengths[0], plan.batches[0]))
        if kind == "compiled" and plan.device.type == "cuda":  # else it needs a C++ compiler
            getattr(lm.base, lm.base.base_model_prefix).compile(dynamic=True)
        yield {"model": plan.models[0], "trunk": kind} | guarded(stepped, plan, learner)


def resume(plan: Plan) -> Iterator[dict]:
    """A run broken off after half of its steps and resumed, beside one that was not."""
    records = {}
    for kind in ("whole", "resumed"):
        for last in (4, 8) if kind == "resumed" else (8,):
            lm = language_model(plan, plan.models[0])
            prepared = job(plan, lm, plan.lengths[0], plan.batches[0], steps=8)
            run, seen = open_or_create(Run(plan.scratch / kind), prepared, resume=True), []
            for record in train(prepared, run=run):
                seen.append(record)
                if record.step == last:
                    break
        records[kind] = Run(plan.scratch / kind).records()
    pairs = list(zip(records["whole"], records["resumed"], strict=True))
    yield {
        "model": plan.models[0],
        "steps": len(pairs),
        "loss": max(abs(a["loss"] - b["loss"]) for a, b in pairs),
        "grad_norm": max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in pairs),
    }


def live(plan: Plan) -> Iterator[dict]:
    """A run with the workbench's figure beside one without it, in this process."""
    from dpo_lab.training.background import BackgroundRun
    from dpo_lab.ui.workbench.workbench import Workbench

    config = TrainConfig(model="micro", steps=100, device=plan.device.type, eval_every=0)
    bench = Workbench(folder=None, **{k: getattr(config, k) for k in ("steps", "device")})
    alone = timed(plan, lambda: BackgroundRun(bench.state.config).start().wait())
    shown = timed(plan, lambda: bench.train().wait())
    yield {"model": "micro", "alone_s": alone, "with_figure_s": shown, "ratio": shown / alone}


def kl(plan: Plan) -> Iterator[dict]:
    """Sampling for the KL, and the KL of what was sampled."""
    answers, tokens = plan.drawn
    lm = language_model(plan, plan.models[0])
    prepared = job(plan, lm, plan.lengths[0], plan.batches[0], keep_reference=True)
    prompts = [pair.prompt for pair in prepared.train.tokens[: min(answers, len(prepared.train))]]
    draw = lambda: sample(lm, prompts, max_new_tokens=tokens)  # noqa: E731
    draw()
    drawing = timed(plan, draw)
    drawn = draw()
    budget = prepared.config.micro_batch_tokens
    measuring = timed(plan, lambda: measure_kl(prepared.scorer, prepared.reference, drawn, budget))
    yield {
        "model": plan.models[0],
        "answers": len(drawn),
        "tokens_per_second": sum(len(answer.ids) for answer in drawn) / drawing,
        "sampling_s": drawing,
        "kl_s": measuring,
    }


PARTS: dict[str, Callable[[Plan], Iterator[dict]]] = {
    part.__name__: part for part in (right, attention, resume, lean, kl, live, compiled, speed)
}
TRL = {
    "TRL, default": {"gradient_checkpointing": True},
    "TRL, fast": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
}


def lab(plan: Plan, name: str, longest: int, batch: int, options: dict, product: float) -> dict:
    """The lab's steps."""
    lm = language_model(plan, name)
    precision = "bfloat16" if plan.bf16 else "float32"
    learner = Learner(job(plan, lm, longest, batch, precision=precision, **options))
    computed = scored = 0
    for step in range(2, plan.steps + 2):
        chosen = [learner.job.train.tokens[index] for index in learner.order.batch(step)]
        row = pack([(p.prompt, side) for p in chosen for side in (p.chosen, p.rejected)])
        computed, scored = computed + row.input_ids.numel(), scored + len(row.targets)
    trunk, head = multiplied_weights(learner.job.policy.base)
    work = (4 if options else 6) * (trunk * computed + head * scored)
    found = stepped(plan, learner)
    return found | {"share": work / (found["step_s"] * plan.steps) / product}


def stepped(plan: Plan, learner: Learner) -> dict:
    """Median time of a learner's steps, pairs a second and peak memory."""
    times = [timed(plan, learner.take_step) for _ in range(learner.total_steps)][2:]
    return measured(plan, statistics.median(times), learner.config.batch_pairs)


def trl(plan: Plan, name: str, longest: int, batch: int, settings: dict) -> dict:
    """TRL's steps on the same pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    lm = language_model(plan, name)
    clock: list[float] = []

    class Timed(DPOTrainer):
        def training_step(self, *arguments, **options):
            started = time.perf_counter()
            loss = super().training_step(*arguments, **options)
            wait(plan)
            clock.append(time.perf_counter() - started)
            return loss

    cached = "precompute_ref_log_probs" in settings
    trainer = Timed(
        model=lm.model,
        ref_model=None if cached else copy.deepcopy(lm.model),
        args=DPOConfig(
            output_dir=str(plan.scratch / "trl"),
            max_steps=plan.steps + 2,
            per_device_train_batch_size=batch,
            max_length=longest,
            learning_rate=1e-6,
            bf16=plan.bf16,
            use_cpu=plan.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=Dataset.from_list(pairs((plan.steps + 2) * batch, longest, True)),
        processing_class=lm.tokenizer,
    )
    trainer.train()
    return measured(plan, statistics.median(clock[2:]), batch)


def measured(plan: Plan, seconds: float, batch: int) -> dict:
    """What a row says of a step."""
    peak = torch.cuda.max_memory_allocated() / 1e9 if plan.device.type == "cuda" else None
    return {"step_s": seconds, "pairs_per_second": batch / seconds, "peak_gb": peak}


def guarded(work: Callable[..., dict], *arguments: Any) -> dict:
    """What a measurement gives, or why there is none."""
    try:
        return work(*arguments)
    except ImportError as error:
        return {"not_measured": f"{error.name} is not installed"}
    except Exception as error:  # the other rows are still worth having
        traceback.print_exc()
        return {"not_measured": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}


def graphs() -> int:
    """Graphs that torch has compiled so far in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def best_product(plan: Plan) -> float:
    """Operations a second of the best of several matrix products, in bfloat16 on a GPU."""
    size, kind = (8192, torch.bfloat16) if plan.bf16 else (512, torch.float32)
    a, b = torch.randn(2, size, size, device=plan.device).to(kind)
    return max(2 * size**3 / timed(plan, lambda: a @ b) for _ in range(10))


def table(results: dict) -> str:
    """The speed rows of a result as the README shows them."""
    titles = "model", "length", "batch", "method", "pairs/s", "peak, GB", "share of best product"
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in results["parts"].get("speed", []):
        if "pairs_per_second" not in row:
            continue
        peak, share = row.get("peak_gb"), row.get("share")
        cells = [row["model"], row["length"], row["batch"], row["method"]]
        cells += [f"{row['pairs_per_second']:.1f}", "" if peak is None else f"{peak:.1f}"]
        cells.append("" if share is None else f"{share:.0%}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    note = f"{results['device']}, torch {results['torch']}, transformers {results['transformers']}"
    return "\n".join([note, "", *lines])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own remarks."""
    transformers.logging.set_verbosity_error()
    yield


def main() -> None:
    """Measure all parts that there is time for, and print what they give."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write (on a GPU: results/gpu.json)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure")
    parser.add_argument("--minutes", type=float, default=10.0, help="no row begins after that")
    parser.add_argument("--table", type=Path, help="print the table of a result, and end")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(asked.table.read_text())))
        return
    plan, begun = Plan.for_this_machine(), time.monotonic()
    file = asked.json or (RESULT if plan.device.type == "cuda" else None)
    name = torch.cuda.get_device_name() if plan.device.type == "cuda" else "CPU, a tiny model"
    results: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parts": {},
    }
    failed = []
    for part in asked.only or PARTS:
        rows = results["parts"][part] = []
        if time.monotonic() - begun > 60 * asked.minutes:
            rows.append({"not_measured": "no time was left"})
            continue
        try:
            with quiet():
                for row in PARTS[part](plan):
                    rows.append(row)
                    print(
                        f"{time.monotonic() - begun:6.1f} s  {part}  {json.dumps(row)}", flush=True
                    )
                    if file:
                        file.write_text(json.dumps(results, indent=1) + "\n")
                    if time.monotonic() - begun > 60 * asked.minutes:
                        break
        except ImportError as error:
            rows.append({"not_measured": f"{error.name} is not installed"})
            print(f"{time.monotonic() - begun:6.1f} s  {part}  {json.dumps(rows[-1])}", flush=True)
        except Exception as error:  # the other parts are still worth having
            traceback.print_exc()
            rows.append({"not_measured": f"{type(error).__name__}: {error}"})
            failed.append(part)
        print(f"{time.monotonic() - begun:6.1f} s  {part} done", flush=True)
    if file:
        file.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
