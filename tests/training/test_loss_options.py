"""Training under losses that look beyond one pair's sums, against the same written plainly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import plain_log_probs

from dpo_lab.analysis.pair_margins import pair_logps
from dpo_lab.models.loading import load_model
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.objective.pair_logps import PairLogps
from dpo_lab.objective.registry import LOSSES, SUMS, find_loss
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.learner import Learner
from dpo_lab.training.loop import train
from dpo_lab.training.loss_description import loss_words
from dpo_lab.training.setup import prepare

STEPS = 3
QUICK = TrainConfig(
    steps=STEPS, batch_pairs=8, limit=64, eval_every=0, eval_pairs=8, learning_rate=3e-3,
    schedule="constant", warmup_steps=0, micro_batch_tokens=30, beta=0.3,
)  # fmt: skip
CASES = [
    {"loss": "aot"},
    {"loss": "aot_unpaired", "label_smoothing": 0.1},
    {"loss": "sft"},
    {"loss": "sigmoid + 0.2 sft"},
    {"loss": "sigmoid + aot"},
    {"loss": "sigmoid_norm", "beta": 3.0},
    {"loss": "orpo"},
    {"loss": "simpo", "beta": 2.0, "simpo_gamma": 0.2},
    {"loss": "odpo", "odpo_alpha": 0.5},
    {"loss": "plackett_luce", "micro_batch_tokens": 16},
    {"loss": "sigmoid", "f_divergence_type": "js_divergence"},
    {"loss": "sigmoid", "ld_alpha": 0.3},
    {"loss": "hinge", "ld_alpha": 0.0},
    {"loss": "sigmoid", "use_weighting": True},
    {"loss": "ipo", "use_weighting": True, "ld_alpha": 0.5},
]


def scored(model, pair, ld_alpha) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of chosen and rejected: the weighted log-probability, and the mean alignment."""
    shared, both = min(len(pair.chosen), len(pair.rejected)), []
    for side in (pair.chosen, pair.rejected):
        rows = plain_log_probs(model, pair.prompt, side)
        picked = rows[torch.arange(len(side)), torch.tensor(side)]
        weights = [1.0 if t < shared or ld_alpha is None else ld_alpha for t in range(len(side))]
        aligned = (picked - rows.exp().square().sum(-1).log()).mean().detach()
        both.append(((picked * torch.tensor(weights)).sum(), aligned))
    return both


def pair_texts(job, pair, response) -> list[str]:
    decode = job.policy.tokenizer.decode
    return [decode(ids, skip_special_tokens=True) for ids in (pair.prompt, response)]


def plain_trajectory(job) -> list[float]:
    config, reference = job.config, load_model("micro").model
    policy = load_model("micro").model
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0)
    order, values = Learner(job).order, []
    for step in range(STEPS):
        batch = [job.train.tokens[index] for index in order.batch(step)]
        with torch.no_grad():
            fixed = [[logp for logp, _ in scored(reference, p, config.ld_alpha)] for p in batch]
        ours = [scored(policy, pair, config.ld_alpha) for pair in batch]
        sides = [torch.stack([pair[side][0] for pair in ours]) for side in (0, 1)]
        sides += [torch.stack([pair[side] for pair in fixed]) for side in (0, 1)]
        sides += [
            torch.tensor([float(len(side)) for side in some])
            for some in zip(*((pair.chosen, pair.rejected) for pair in batch), strict=True)
        ]
        # Reviews have no scores: their ground truth has. Few prompts, so that chosen ones recur.
        margins = [job.reward_fn(*pair_texts(job, p, p.chosen)) for p in batch]
        lower = [job.reward_fn(*pair_texts(job, p, p.rejected)) for p in batch]
        facts = {
            "score_margins": torch.tensor(margins) - torch.tensor(lower),
            "rankings": torch.tensor([hash((p.prompt, p.chosen)) for p in batch]),
        }
        pairs = PairLogps(*sides, **facts)
        losses = find_loss(config.loss)(pairs, config.beta, **config.loss_options)
        if config.use_weighting:
            losses = losses * torch.stack([(pair[0][1] + pair[1][1]).exp() for pair in ours])
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        values.append(losses.mean().item())
    return values


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_trajectory_in_micro_batches_equals_the_plain_one_over_the_whole_batch(case, tmp_path):
    job = prepare(replace(QUICK, **case), cache=ReferenceCache(tmp_path / "cache.sqlite"))
    learner = Learner(job)
    assert len(learner.gradient.micro_batches(learner.job.train, learner.order.batch(0))) > 2
    expected = plain_trajectory(job)
    assert [record["loss"] for record in train(job)] == pytest.approx(expected, abs=2e-5, rel=2e-5)


@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_every_loss_falls_and_is_measured_as_it_is_defined(name):
    """A small step on all pairs lowers their loss; that of held-out pairs is written out."""
    config = replace(QUICK, loss=name, limit=16, batch_pairs=16, steps=2, learning_rate=1e-4)
    job = prepare(replace(config, eval_every=2, kl_samples=8, sample_prompts=0))
    assert len(job.train) == config.batch_pairs
    _, first, last = train(job)
    # DPO-Positive begins at the kink of its penalty, of which no gradient tells.
    assert last["loss"] < first["loss"] or name == "dpop"
    chosen, rejected = job.held_out.lengths
    of_pairs = job.held_out.batch(range(len(job.held_out))).logps
    held_out = replace(
        pair_logps(job, job.held_out.tokens),
        chosen_lengths=chosen,
        rejected_lengths=rejected,
        score_margins=of_pairs.score_margins,
        rankings=of_pairs.rankings,
    )
    losses = find_loss(name)(held_out, config.beta, **config.loss_options)
    assert last["eval/loss"] == pytest.approx(losses.mean().item(), abs=1e-5)
    assert {"rewards/margins", "gradient_weight", "kl/per_token"} <= set(last.values)


def test_ld_dpo_s_reference_values_serve_every_alpha(tmp_path):
    """The cut responses are scored once; whole ones have the values that every run has."""
    cache = ReferenceCache(tmp_path / "cache.sqlite")
    plain = prepare(QUICK, cache=cache)
    for alpha, computed in ((0.3, True), (0.3, False), (0.6, False)):
        job = prepare(replace(QUICK, ld_alpha=alpha), cache=cache)
        assert (job.cache_use.computed > 0) == computed and job.cache_use.cached > 0
        chosen, rejected = job.train.lengths
        changed = (job.train.reference - plain.train.reference).abs() > 0
        longer = torch.stack([chosen > rejected, rejected > chosen]) & job.train.scored
        assert changed.any() and not (changed & ~longer).any()
        first = next(train(job))
        assert first["loss"] == pytest.approx(0.693147, abs=1e-5)


REFUSED = [
    ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing=0.1: the loss 'hinge' takes none"),
    ({"loss": "bco_pair", "f_divergence_type": "forward_kl"}, "f_divergence_type=forward_kl: the"),
    ({"loss": "sigmoid + bco_pair", "f_divergence_type": "forward_kl"}, "f_divergence_type="),
    ({"loss": "exo_pair", "label_smoothing": 0.0}, "label_smoothing=0: exo_pair takes the log"),
    ({"loss": "discopop", "discopop_tau": -1.0}, "discopop_tau=-1.0: must be a finite number > 0"),
    ({"loss": "dpop", "dpop_lambda": -1.0}, "dpop_lambda=-1.0: must be a finite number >= 0"),
    ({"loss": "cpo", "cpo_alpha": -1.0}, "cpo_alpha=-1.0: must be a finite number >= 0"),
    ({"loss": "simpo", "simpo_gamma": float("nan")}, "simpo_gamma=nan: must be a finite number"),
    ({"ld_alpha": 1.5}, "ld_alpha=1.5: must be in [0, 1]"),
    ({"loss": "simpo", "ld_alpha": 0.5}, "ld_alpha=0.5: the loss 'simpo' divides by the number"),
    ({"loss": "sigmoid + 0.2 sft", "ld_alpha": 0.5}, "ld_alpha=0.5: the loss 'sigmoid + 0.2 sft'"),
    ({"f_alpha_divergence_coef": 0.7}, "f_alpha_divergence_coef=0.7: reverse_kl has none"),
    ({"dpop_lambda": 0.0}, "dpop_lambda=0.0: the loss 'sigmoid' takes none"),
    ({"loss": "aot", "tie_weight": 0.5}, "tie_weight=0.5: a value of the loss 'aot' belongs to no"),
    ({"tie_weight": 2.0}, "tie_weight=2.0: must be in [0, 1]"),
    ({"loss": "odpo", "method": "online-dpo"}, "loss='odpo': needs scores of the data's"),
    ({"loss": "odpo", "odpo_transform": "root"}, "odpo_transform='root': unknown"),
    ({"loss": "aot", "use_weighting": True}, "use_weighting=True: the loss 'aot' sorts the batch"),
    ({"f_divergence_type": "kl"}, "f_divergence_type='kl': unknown. Use one of reverse_kl"),
]


@pytest.mark.parametrize("settings, words", REFUSED)
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(settings, words):
    with pytest.raises(ValueError) as error:
        TrainConfig(**settings)
    assert str(error.value).startswith(words)


def test_defaults_of_a_loss_are_its_papers_unless_given():
    """Of a sum each member keeps its own, in whatever order they stand."""
    pairs = PairLogps.at_reference()
    exo = LOSSES["exo_pair"](pairs, 0.1, label_smoothing=1e-3) + LOSSES["sigmoid"](pairs, 0.1)
    for name in ("sigmoid + exo_pair", "exo_pair + sigmoid"):
        config = TrainConfig(loss=name)
        torch.testing.assert_close(find_loss(name)(pairs, 0.1, **config.loss_options), exo)
    assert TrainConfig(loss="exo_pair", label_smoothing=0.1).loss_options["label_smoothing"] == 0.1
    assert TrainConfig(loss="simpo").loss_options == {}


def test_a_run_says_in_a_few_words_what_it_minimises():
    assert TrainConfig().loss_words == "sigmoid"
    config = TrainConfig(label_smoothing=0.1, f_divergence_type="js_divergence", ld_alpha=0.5)
    words = "sigmoid, label_smoothing 0.1, js_divergence, ld_alpha 0.5"
    assert config.loss_words == words
    assert replace(config, use_weighting=True).loss_words == words + ", WPO"


def test_the_words_know_every_option_that_a_loss_takes():
    for name, loss in LOSSES.items():
        for option in loss.options:
            value = "js_divergence" if option == "f_divergence_type" else 0.25
            said = loss_words(TrainConfig().as_dict() | {"loss": name, option: value})
            assert said == f"{name}, {value if isinstance(value, str) else f'{option} 0.25'}"
    assert loss_words({"loss": "ipo", "label_smoothing": 0.0}) == "ipo"
