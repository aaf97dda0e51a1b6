"""From a model's own answers to training: clicks, label rounds, and what the loss then sees."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from tiny import make_language_model, plain_logp

from dpo_lab.annotation import scored_pairs as labelling
from dpo_lab.annotation.question_queue import QuestionQueue
from dpo_lab.annotation.questions import Question
from dpo_lab.annotation.scored_pairs import completion_pairs
from dpo_lab.annotation.session import Session
from dpo_lab.annotation.simulated import SimulatedAnnotator
from dpo_lab.data.preferences import load_preferences
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.sampling import sample
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.learner import Learner
from dpo_lab.training.setup import prepare

PROMPTS = ["where is the answer", "is it there", "the answer"]
BETA = 0.3


def config(**changes) -> TrainConfig:
    small = {"held_out": 0.0, "eval_every": 0, "kl_samples": 0, "beta": BETA, "steps": 1}
    return TrainConfig(model="tiny", **small | changes)


def clicked(folder, model, questions: int = 9, limit: int = 5) -> Session:
    """A session in which somebody compared a model's own answers."""
    session = Session(folder)
    who = SimulatedAnnotator(lambda prompt, text: float(len(text)), tie_within=-1)
    interview = QuestionQueue(session, PROMPTS, lambda: model, max_new_tokens=limit).start()
    try:
        for _ in range(questions):
            interview.answer(who(interview.wait(60)))
    finally:
        interview.close()
    return session


def test_clicks_are_trained_on_the_ids_that_were_sampled(tmp_path) -> None:
    """The answers of random weights: their text, encoded again, gives other ids."""
    model = make_language_model()
    session = clicked(tmp_path, model)
    rows = [json.loads(line) for line in session.file.read_text().splitlines()]
    job = prepare(config(batch_pairs=len(rows)), model=model, data=load_preferences(session.file))
    kept = {pair.row: pair for pair in job.train.tokens}
    assert len(rows) == len(kept) == 9
    cut, other = 0, 0
    for number, row in enumerate(rows, start=1):
        for side in ("chosen", "rejected"):
            sampled, ids = row[f"{side}_sampled"], getattr(kept[number], side)
            assert list(ids) == sampled["ids"]
            ended = model.tokenizer.eos_token_id in ids
            assert ended == sampled["ended"] and (ended or len(ids) == 5)
            cut += not ended
            other += model.encoder.responses(PROMPTS[:1], [row[side]]) != [ids]
    assert cut > 9 and other > 9, "a real test"
    reopened = Session(tmp_path)
    assert reopened.pairs == rows and reopened.answers == session.answers
    reopened.close()


def test_pairs_of_the_models_own_are_trained_on_the_ids_that_were_sampled(monkeypatch) -> None:
    model, drawn = make_language_model(), []

    def watched(*given, **options):
        drawn.extend(sample(*given, **options))
        return drawn

    monkeypatch.setattr(labelling, "sample", watched)
    rows = completion_pairs(model, PROMPTS, lambda _, text: len(text), max_new_tokens=6, seed=1)
    job = prepare(config(batch_pairs=4), model=model, data=rows)
    known = {(answer.prompt, answer.ids) for answer in drawn}
    sequences = set(job.train.tokens.sequences())
    assert len(rows) > 12 and sequences <= known and len(sequences) > 8
    assert any(model.tokenizer.eos_token_id not in ids for _, ids in sequences)


def test_the_gradient_of_a_cut_answer_never_touches_an_end_token() -> None:
    """Beside DPO written out over exactly the sampled tokens, row by row, in plain autograd.

    Chosen is cut after three tokens, rejected ends. The policy is the reference, so the loss is
    `-log sigmoid(beta (c - r - c_ref + r_ref))` with c, r the plain sums. A target more, the end
    token after chosen, gives another gradient: its difference is shown to be large.
    """
    model = make_language_model()
    disable_dropout(model.model)
    eos, prompt = model.tokenizer.eos_token_id, model.encoder.prompts(PROMPTS[:1])[0]
    chosen, rejected = (90, 120, 77), (65, 90, eos)
    texts = [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in (chosen, rejected)]
    row = {"prompt": PROMPTS[0], "chosen": texts[0], "rejected": texts[1]}
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        known = {"ids": ids, "ended": ids[-1] == eos, "tokenizer": model.encoder.fingerprint}
        row[f"{side}_sampled"] = known
    learner = Learner(prepare(config(batch_pairs=1), model=model, data=[row]))

    def by_hand(ids) -> dict[str, torch.Tensor]:
        learner.optimizer.zero_grad()
        c, r = (plain_logp(model.model, prompt, some) for some in (ids, rejected))
        loss = -F.logsigmoid(BETA * (c - r - (c - r).detach()))
        loss.backward()
        return {n: p.grad.clone() for n, p in model.model.named_parameters()}

    expected, with_end = by_hand(chosen), by_hand((*chosen, eos))
    learner.optimizer.zero_grad()
    pairs = learner.accumulate([0]).pairs
    assert pairs.policy_chosen.item() == pytest.approx(
        plain_logp(model.model, prompt, chosen).item(), abs=1e-4
    )
    assert list(learner.job.train.lengths[:, 0]) == [3, 3]
    for name, parameter in model.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)
    differences = [(with_end[name] - expected[name]).abs().max() for name in expected]
    assert max(differences) > 1e-2, "the check would see an end token"


def test_a_log_from_before_ids_were_kept_is_read_and_its_text_trained(tmp_path) -> None:
    session = Session(tmp_path)
    session.add(Question(1, "the answer", "is yes", "is no", 0), "A")
    session.close()
    lines = [json.loads(line) for line in session.log.read_text().splitlines()]
    old = [{k: v for k, v in line.items() if not k.endswith("_sampled")} for line in lines]
    assert old != lines
    session.log.write_text("".join(json.dumps(line) + "\n" for line in old))
    again = Session(tmp_path)
    again.close()
    assert again.answers == session.answers and again.notes == []
    assert again.pairs == [{"prompt": "the answer", "chosen": "is yes", "rejected": "is no"}]


def test_trl_trains_on_the_exported_clicks(tmp_path) -> None:
    """Its trainer takes the file with the ids in it, and pays them no heed."""
    trl = pytest.importorskip("trl", minversion="1.16")
    from datasets import load_dataset

    model = make_language_model()
    session = clicked(tmp_path / "mine", model, questions=4)
    data = load_dataset(
        "json", data_files=str(session.file), split="train", cache_dir=str(tmp_path / "hub")
    )
    assert data.column_names[:3] == ["prompt", "chosen", "rejected"]
    options = trl.DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2,
        report_to="none", use_cpu=True, bf16=False, save_strategy="no",
    )  # fmt: skip
    model.tokenizer.pad_token = model.tokenizer.eos_token
    trainer = trl.DPOTrainer(
        model.model, args=options, train_dataset=data, processing_class=model.tokenizer,
        ref_model=make_language_model().model,
    )  # fmt: skip
    (pair,) = (one for one in session.pairs if one["chosen"] == data[0]["chosen"])
    own = trainer.train_dataset[0]["chosen_ids"]
    assert model.tokenizer.decode(own, skip_special_tokens=True).strip() == pair["chosen"]
    assert trainer.train().global_step == 1
