"""Answers that were cut at their length limit: counted in records, and marked where they stand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import make_language_model

from dpo_lab.annotation.scored_pairs import completion_pairs
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.sampled_reader import AS_SAMPLED, CUT
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.kl import measure_kl
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import new_tokens
from dpo_lab.models.reference import Reference
from dpo_lab.models.sampling import Completion, sample
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.history import History
from dpo_lab.training.loop import train
from dpo_lab.training.records import SampleRecord, StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.ui.figures.training_figure import training_figure
from dpo_lab.ui.html.tables import compared_answers, samples_table
from dpo_lab.ui.report.summary import KL_TILE, row_of, tiles

PROMPTS = ["where is the answer", "is it there", "the answer", "there", "where", "it is"]


def ending(probability: float):
    """A tiny model that ends with a probability at every step, whatever came before."""
    model = make_language_model()
    disable_dropout(model.model)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
    bias = torch.zeros(model.model.lm_head.out_features)
    others = len(bias) - 1
    bias[model.tokenizer.eos_token_id] = math.log(probability * others / (1 - probability))
    model.model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def test_the_records_count_what_was_cut_and_how_many_prompts_there_were(tmp_path) -> None:
    """It ends with probability 1/2 at each step: of 400 answers of two tokens 1/4 is cut.

    One standard error is `sqrt(3 / 16 / 400) = 0.0217`; the share may lie 4 away. Greedy, it ends
    at once: nothing that is shown is cut.
    """
    rows = [{"prompt": p, "chosen": "is yes", "rejected": "is no"} for p in PROMPTS]
    config = TrainConfig(
        model="tiny", steps=1, batch_pairs=2, held_out=0.5, eval_every=1, kl_samples=400,
        max_new_tokens=2,
    )  # fmt: skip
    job = prepare(config, model=ending(0.5), data=rows, reward_fn=lambda _, text: float(len(text)))
    run = Run.create(tmp_path / "run", job.config, {})
    start, _ = train(job, run=run)
    assert start["kl/cut"] == pytest.approx(0.25, abs=4 * 0.0217) and start["samples/cut"] == 0
    assert (start["kl/n"], start["kl/prompts"]) == (400, 3)
    for name in ("kl/per_token", "kl/k1", "score/policy", "score/reference"):
        assert start[f"{name}_stderr"] >= 0 and start[f"{name}_stderr_samples"] >= 0
    assert not any(sample.policy_cut or sample.reference_cut for sample in run.samples())
    assert run.records()[0].as_dict() == start.as_dict()


def test_every_answer_cut_is_said_in_each_sample_and_on_disk(tmp_path) -> None:
    rows = [{"prompt": p, "chosen": "is yes", "rejected": "is no"} for p in PROMPTS]
    config = TrainConfig(
        model="tiny", steps=1, batch_pairs=2, held_out=0.5, eval_every=1, kl_samples=2,
        max_new_tokens=2,
    )  # fmt: skip
    job = prepare(config, model=ending(1e-9), data=rows)
    run = Run.create(tmp_path / "run", job.config, {})
    start, _ = train(job, run=run)
    assert start["kl/cut"] == start["samples/cut"] == 1
    assert start["kl/prompts"] == 2 and "kl/per_token_stderr_samples" not in start.values
    assert all(one.policy_cut and one.reference_cut for one in run.samples()) and run.samples()


def test_samples_of_older_runs_are_read(tmp_path) -> None:
    job = prepare(TrainConfig(steps=1, limit=16, held_out=0.5, eval_every=0, kl_samples=0))
    run = Run.create(tmp_path / "run", job.config, {})
    old = {"step": 1, "prompt": "p", "reference": "r", "policy": "q"}
    (run.path / "samples.jsonl").write_text(json.dumps(old) + "\n")
    assert run.samples() == [SampleRecord(1, "p", "r", "q")]


def test_a_kl_of_cut_answers_is_at_least_that_and_errors_are_over_prompts() -> None:
    """Policy and reference end with probabilities 1/2 and 1/4.

    A step's KL is `d = ln 2 / 2 + ln(2/3) / 2 = 0.1438`, a whole answer's the sum over steps of
    `d / 2^t`, `2 d`. One cut at two tokens has `d (1 + 1/2)` on average, which is less.
    """
    policy, reference = ending(0.5), ending(0.25)
    step = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    prompts = policy.encoder.prompts(PROMPTS * 200)
    scorers = LogpScorer.probed(policy), Reference(LogpScorer.probed(reference))
    short = measure_kl(*scorers, sample(policy, prompts, max_new_tokens=2))
    long = measure_kl(*scorers, sample(policy, prompts, max_new_tokens=40))
    assert short.cut == pytest.approx(0.25, abs=0.05) and long.cut == 0
    assert short.per_token.mean == pytest.approx(1.5 * step, abs=4 * short.per_token.stderr_samples)
    assert long.per_token.mean == pytest.approx(2 * step, abs=4 * long.per_token.stderr_samples)
    assert short.per_token.prompts == 6 and short.per_token.n == 1200
    values = [step if len(answer.ids) == 1 else 2 * step for answer in two_prompts(policy)]
    pair = measure_kl(*scorers, two_prompts(policy))
    assert pair.per_token.mean == pytest.approx(sum(values) / 4, abs=1e-5)
    # Means `d` and `2 d` of the two prompts, no spread within: `sqrt(d^2 / 2 / 2) = d / 2`.
    assert pair.per_token.stderr == pytest.approx(step / 2, abs=1e-5)
    assert pair.per_token.stderr_samples == pytest.approx(0, abs=1e-5)


def two_prompts(model) -> list[Completion]:
    """Two answers of one token to one prompt, two of two tokens to another."""
    first, second = model.encoder.prompts(PROMPTS[:2])
    eos = model.tokenizer.eos_token_id
    kinds = [(first, (eos,)), (second, (7, eos)), (first, (eos,)), (second, (9, eos))]
    return [Completion(prompt, ids, "", True) for prompt, ids in kinds]


def test_a_cut_answer_is_marked_in_every_table_of_answers() -> None:
    one = SampleRecord(3, "p", "short", "goes on and", reference_cut=False, policy_cut=True)
    assert one.shown == ("short", "goes on and …(cut)")
    for page in (samples_table([one]), compared_answers({"run": [one]})):
        assert "<td style='text-align:left' dir='auto'>goes on and …(cut)</td>" in page
        assert "<td style='text-align:left' dir='auto'>short</td>" in page


def record(step: int, **values: float) -> StepRecord:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return StepRecord(step, 0.0, 0, 0.1, 1e-3, named)


@pytest.mark.parametrize("cut", [0.0, 0.34])
def test_figures_and_tables_say_at_least_where_answers_were_cut(cut) -> None:
    kl = {"kl__per_token": 1.5, "kl__per_token_stderr": 0.1, "kl__n": 64.0, "kl__prompts": 8.0}
    records = [record(0, **kl, kl__cut=0.0), record(9, **kl, kl__cut=cut)]
    words = "".join(note.text for note in training_figure(records).layout.annotations)
    assert ("KL(policy ‖ reference), at least" in words) == bool(cut)
    assert ("up to 34% cut at their limit" if cut else "8 prompts; ±1 s.e. over prompts") in words
    text = tiles(records, None)[KL_TILE]["text"]
    assert "on 64 samples of 8 prompts (error for prompts like these)" in text
    assert ("at least: 34% of the answers were cut" in text) == bool(cut)
    row = row_of("a", "done", TrainConfig().as_dict(), History(records))
    assert row["KL"] == ("≥ 1.500" if cut else "1.500")


def test_the_default_length_is_the_models_everywhere_and_an_own_one_is_kept() -> None:
    """Measured: most answers of `smollm2` end within 192 tokens, one in ten within 48."""
    for model, tokens in (("micro", 48), ("smollm2", 192), ("owner/name", 192)):
        assert new_tokens(model) == TrainConfig(model=model).resolved().max_new_tokens == tokens
        assert TrainConfig(model=model, max_new_tokens=7).resolved().max_new_tokens == 7
    endless = ending(1e-9)
    (answer,) = sample(endless, endless.encoder.prompts(PROMPTS[:1]))
    assert len(answer.ids) == 192 and not answer.ended


def test_pairs_of_a_chat_model_are_sampled_in_the_form_that_trains_them() -> None:
    model = make_language_model()
    model.tokenizer.chat_template = "{% for m in messages %}is {{ m.content }}<eos>{% endfor %}no "
    model = LanguageModel(model.model, model.tokenizer, "tiny", "test")
    options = {"max_new_tokens": 4, "seed": 1, "completions": 3}
    rows = completion_pairs(model, PROMPTS[:2], lambda _, text: float(len(text)), **options)
    assert all(row["prompt"][0]["role"] == "user" for row in rows)
    tokens = tokenize_pairs(preferences_from_rows(rows), model.tokenizer)
    asked = {model.encoder.prompts([row["prompt"]])[0] for row in rows}
    assert {pair.prompt for pair in tokens} == asked and len(asked) == 2
    assert set(tokens.sampled) <= {AS_SAMPLED, CUT} and len(tokens) == len(rows)
    plain = completion_pairs(model, ["it"], lambda *_: 0.0, prompt_format="plain", **options)
    assert {row["prompt"] for row in plain} == {"it"}
