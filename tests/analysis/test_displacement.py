"""Displacement: a table by hand, and another way to every number."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, OfNoDouble, make_language_model, shake, some_sequences

from dpo_lab.analysis.displacement import (
    GROUPS,
    exact_displacement,
    sampled_displacement,
    token_displacement,
)
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.reviews import reward as true_reward
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.pair_mass import ListedPairs
from dpo_lab.models.reference import Reference
from dpo_lab.models.response_space import ResponseSpace
from dpo_lab.models.sampling import Completion, sample
from dpo_lab.models.scoring import LogpScorer, score_sequences

PAIRS = preferences_from_rows(
    [
        {"prompt": "one", "chosen": "a", "rejected": "b"},
        {"prompt": "one", "chosen": "a", "rejected": "c"},
        {"prompt": "one", "chosen": "c", "rejected": "b"},
        {"prompt": "two", "chosen": "d", "rejected": "a"},
    ]
)


def test_a_table_by_hand() -> None:
    """Prompt "one": a was chosen twice, b rejected twice, c once each, d only for another prompt.

    | | a | b | c | d |
    |---|---|---|---|---|
    | before | 0.4 | 0.3 | 0.2 | 0.1 |
    | after | 0.3 | 0.1 | 0.05 | 0.55 |
    """
    before = torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 2, dtype=torch.float64)
    after = torch.tensor([[0.3, 0.1, 0.05, 0.55]] * 2, dtype=torch.float64)
    world = ResponseSpace(("one", "two"), ("a", "b", "c", "d"), before.log(), torch.zeros(2, 4))
    found = exact_displacement(world, after.log(), PAIRS, "one")
    assert found.kinds == ("mostly chosen", "mostly rejected", "as often both", "in no pair")
    assert found.moved == pytest.approx(0.45) and found.to_unseen == pytest.approx(1)
    shares = {share.text: (share.before, share.after) for share in found.groups()}
    assert shares["mostly chosen"] == pytest.approx((0.4, 0.3))
    assert shares["in no pair"] == pytest.approx((0.1, 0.55))
    assert [share.text for share in found.losing(3)] == ["b", "c", "a"]
    (most,) = found.gaining(1)
    assert (most.text, most.note) == ("d", GROUPS[3]) and most.gain == pytest.approx(0.45)
    with pytest.raises(ValueError, match="not in this world"):
        exact_displacement(world, after.log(), PAIRS, "three")


def test_on_micro_groups_are_their_answers_scored_one_by_one() -> None:
    micro = load_model("micro", device="cpu")
    prompt, scorer = "the acting felt", LogpScorer.probed(micro)
    reference = Reference(scorer)
    reference.keep()
    world = ResponseSpace.of(micro, [prompt], true_reward)
    shake(micro.model, 0.02, seed=1)
    answers = {"mostly chosen": ["superb", "really good"], "mostly rejected": ["dull", "not bad"]}
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for chosen, rejected in zip(*answers.values(), strict=True)
    ]
    found = exact_displacement(world, world.logps(micro), preferences_from_rows(rows), prompt)
    assert found.moved > 0.01
    shares = {share.text: (share.before, share.after) for share in found.groups()}
    for group, texts in answers.items():
        ids = micro.encoder.responses([prompt] * 2, texts)
        sequences = [(micro.encoder.prompts([prompt])[0], response) for response in ids]
        with reference.active() as frozen:
            before = score_sequences(frozen, sequences).exp().sum().item()
        after = score_sequences(scorer, sequences).exp().sum().item()
        assert shares[group] == pytest.approx((before, after), rel=1e-4) and before != after
    rest = [1 - sum(shares[group][side] for group in answers) for side in (0, 1)]
    assert shares["in no pair"] == pytest.approx(rest) and shares["as often both"] == (0, 0)
    drawn = sample(micro, micro.encoder.prompts([prompt]) * 2000, max_new_tokens=12, seed=1)
    share = sum(one.text in answers["mostly chosen"] for one in drawn) / 2000
    exact = shares["mostly chosen"][1]
    assert abs(share - exact) < 4 * (exact * (1 - exact) / 2000) ** 0.5
    gains = found.after - found.before
    ranked = [share.gain for share in found.gaining(20)]
    assert ranked == sorted(ranked, reverse=True) and ranked[0] == gains.max().item()


@pytest.mark.parametrize("family", [*FAMILIES, "LoRA"])
def test_at_every_token_shares_are_those_of_a_plain_forward_pass(family: str) -> None:
    lora = family == "LoRA"
    model = make_language_model("Llama" if lora else family)
    model = add_lora(model, 4) if lora else model
    scorer = LogpScorer.probed(model)
    reference = Reference(scorer)
    reference.keep()
    shake(model.model, 0.2 if lora else 0.03, seed=3, only="lora_" if lora else "")
    prompt, response = some_sequences(3)[-1]
    steps = token_displacement(scorer, reference, prompt, response, top=4)
    assert len(steps) == len(response)
    for place, step in enumerate(steps):
        assert step.moved > 1e-4
        shares = []
        with reference.active() as frozen, torch.no_grad():
            ids = torch.tensor([[*prompt, *response[:place]]])
            shares.append(frozen.language_model.model(ids).logits[0, -1].double().softmax(-1))
        with torch.no_grad():
            shares.append(model.model(ids).logits[0, -1].double().softmax(-1))
        before, after = shares
        own = (before[response[place]].item(), after[response[place]].item())
        assert (step.own.before, step.own.after) == pytest.approx(own, abs=1e-5)
        gains = (after - before).sort(descending=True).values
        assert [one.gain for one in step.gaining] == pytest.approx(gains[:4].tolist(), abs=1e-5)
        assert [one.gain for one in step.losing] == pytest.approx(
            gains.flip(0)[:4].tolist(), abs=1e-5
        )
        assert step.moved == pytest.approx(gains.clamp(min=0).sum().item(), abs=1e-5)


def test_a_device_without_float64_gives_the_same(monkeypatch) -> None:
    scorer = LogpScorer.probed(make_language_model())
    reference = Reference(scorer)
    reference.keep()
    shake(scorer.language_model.model, 0.03, seed=3)
    sequence = some_sequences(3)[-1]
    expected = token_displacement(scorer, reference, *sequence)
    there = LogpScorer.logits
    monkeypatch.setattr(LogpScorer, "logits", lambda *args: there(*args).as_subclass(OfNoDouble))
    assert token_displacement(scorer, reference, *sequence) == expected


def _answers(texts: str) -> list[Completion]:
    return [Completion((5,), (6,), text, True) for text in texts]


def test_shares_of_sampled_answers_by_hand() -> None:
    found = sampled_displacement(_answers("aabc"), _answers("bbbbbbba"), top=2)
    assert [(one.text, one.before, one.after) for one in found] == [
        ("b", 0.25, 0.875),
        ("a", 0.5, 0.125),
    ]
    with pytest.raises(ValueError, match="at least one of each"):
        sampled_displacement([], _answers("a"))


def test_who_has_the_probability_by_hand() -> None:
    """Pairs a-b and c-d of prompt one, a-c of prompt two; e is shown for neither, f by nobody.

    | | a | b | c | d | e | f |
    |---|---|---|---|---|---|---|
    | one | .1 | .2 | .05 | .15 | .3 | .2 |
    | two | .4 | .1 | .1 | .1 | .1 | .2 |

    Own: (.3 + .2 + .5) / 3. In some pair, e being shown to a prompt elsewhere: .8, .8 and .8.
    """
    shares = torch.tensor(
        [[0.1, 0.2, 0.05, 0.15, 0.3, 0.2], [0.4, 0.1, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64
    )
    places = torch.tensor([[0, 0, 1], [0, 2, 3], [1, 0, 2]])
    shown = torch.tensor([True, True, True, True, True, False])
    mass = ListedPairs(places, shown).mass(shares.log())
    assert mass.own == pytest.approx(1 / 3)
    assert mass.others == pytest.approx(0.8 - 1 / 3) and mass.none == pytest.approx(0.2)
