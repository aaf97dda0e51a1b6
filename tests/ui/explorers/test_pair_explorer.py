"""The pair explorer from code: sort, pick, mark, and a page without a kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpo_lab import TrainConfig, prepare, train
from dpo_lab.analysis.pair_margins import score_pairs
from dpo_lab.data.preferences import load_preferences, preferences_from_rows
from dpo_lab.ui.explorers import pair_explorer
from dpo_lab.ui.explorers.pair_explorer import COLUMNS, NOTE, ON_PAPER, PairExplorer, caveats
from dpo_lab.ui.html.tables import escaped

HOSTILE = "<img src=x onerror=alert(1)>"
CONFIG = TrainConfig(
    steps=8, batch_pairs=16, eval_every=0, eval_pairs=0, kl_samples=0, sample_prompts=0,
    held_out=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    pairs = replace(reviews := load_preferences("reviews"), pairs=reviews.pairs[:40])
    job = prepare(CONFIG, data=pairs, keep_reference=True)
    list(train(job))
    return job, score_pairs(job, pairs)


@pytest.fixture
def explorer(run) -> PairExplorer:
    planted = torch.zeros(40, dtype=torch.bool)
    planted[run[1].order()[0]] = True
    return PairExplorer(*run, planted=planted, shown=20)


def test_rows_are_the_pairs_in_order_with_their_numbers(run, explorer) -> None:
    scores = run[1]
    for by in ("disagreement", "log-probability", "change"):
        explorer.sort = by
        order = scores.order(by).tolist()
        assert explorer.sort == by and len(explorer.table.rows) == 20
        for place, row in enumerate(explorer.table.rows):
            pair, index = scores.preferences[order[place]], order[place]
            assert row[:4] == [str(place + 1), pair.prompt, pair.chosen, pair.rejected]
            values = (scores.before[index], scores.after[index], scores.reward_margins[index])
            shown = [f"{value.item():+.2f}".replace("-", "−") for value in values]
            assert row[4:7] == shown and len(row) == len(COLUMNS)
            right = scores.label_probability[index].item()
            assert row[7] == f"{right:.0%}"
            wanted = "planted" if index == scores.order()[0] else "doubted" * (right < 0.5)
            assert row[8] == wanted


def test_a_picked_pair_shows_its_credit(run, explorer) -> None:
    seen = set()
    for place in (0, 3, 19):
        explorer.select(place)
        assert explorer.selected == place and explorer.pair.row == int(
            run[1].tokens[int(run[1].order()[place])].row
        )
        assert explorer.credit.html in explorer._credit.value
        seen.add(explorer._credit.value)
        assert f"row {explorer.pair.row} of the data" in explorer._where.value
    assert len(seen) == 3
    margin = run[1].reward_margins[run[1].order()[19]].item()
    chosen, rejected = explorer._credits()
    assert chosen.reward - rejected.reward == pytest.approx(margin, abs=1e-5)


def test_buttons_go_one_pair_on_and_stop_at_the_ends(explorer) -> None:
    back, forth = explorer._back, explorer._next
    assert back.disabled and not forth.disabled
    forth.click()
    assert explorer.selected == 1 and not back.disabled
    back.click()
    assert explorer.selected == 0
    explorer.select(19)
    assert forth.disabled
    explorer.sort = "change"
    assert explorer.selected == 0


def test_what_a_page_sends_picks_a_row_and_nonsense_is_left_alone(explorer) -> None:
    explorer.table.set_state({"selected": 2})
    assert explorer.selected == 2 and "pair 3 of 20" in explorer._where.value
    before = explorer._credit.value
    explorer.table.set_state({"selected": 999})
    assert explorer._credit.value == before


def test_what_goes_wrong_in_a_callback_is_told_in_place_of_the_former_pair(
    explorer, monkeypatch
) -> None:
    def fails(*arguments):
        raise RuntimeError(HOSTILE)

    whole = explorer._credit.value
    with monkeypatch.context() as broken:
        broken.setattr(pair_explorer, "token_credit", fails)
        explorer.table.set_state({"selected": 3})
        assert "pair 4 of 20" in explorer._where.value and not explorer._back.disabled
        assert "RuntimeError: &lt;img" in explorer._credit.value
        assert "class='credit'" not in explorer._credit.value
    explorer.select(0)
    assert explorer._credit.value == whole
    with monkeypatch.context() as broken:
        broken.setattr(type(explorer._scores), "order", fails)
        explorer._order.value = "change"
        assert explorer.table.rows == [] and explorer._where.value == ""
        assert "RuntimeError: &lt;img" in explorer._credit.value
        assert explorer._back.disabled and explorer._next.disabled
    explorer.sort = "disagreement"
    assert len(explorer.table.rows) == 20 and explorer._credit.value == whole


def test_a_pair_is_looked_into_once_when_the_order_changes(explorer, monkeypatch) -> None:
    asked = []
    credit = pair_explorer.token_credit
    monkeypatch.setattr(
        pair_explorer, "token_credit", lambda *given: asked.append(given) or credit(*given)
    )
    explorer.select(5)
    explorer.sort = "change"
    assert len(asked) == 2 and explorer.selected == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({"loss": "ipo"}, "Trained with IPO, whose rewards are beta x log-ratio"),
        ({"loss": "sigmoid + 0.2 sft"}, "; and: beta x log-ratio to where the policy began"),
        ({"f_divergence_type": "forward_kl"}, "scores of forward_kl in place of log-ratios"),
        ({"loss": "exo_pair"}, "not a Bradley-Terry reward: its margin ends at"),
        ({"loss": "dpop"}, "not a Bradley-Terry reward, because of the penalty on falling"),
        ({"label_smoothing": 0.1}, "not this loss's probability of the label"),
        ({"ld_alpha": 0.0}, "what the longer answer has more counts 0 here"),
    ],
)
def test_the_note_says_what_the_numbers_are_of_other_losses(run, settings, said: str) -> None:
    config = replace(run[0].config, **settings)
    explorer = PairExplorer(replace(run[0], config=config), run[1])
    notes = [explorer.view.children[3].value, explorer._repr_mimebundle_()["text/html"]]
    assert all(escaped(said) in note and NOTE in note for note in notes)
    assert bool(caveats(config)) == bool(said)
    rights = {row[7] for row in explorer.table.rows}
    assert (rights == {"–"}) == ("–" in rights) == bool(said)


def test_wrong_arguments_are_refused(run, explorer) -> None:
    with pytest.raises(ValueError, match="place=20: the table has rows 0 to 19"):
        explorer.select(20)
    with pytest.raises(ValueError, match="by='luck': unknown order"):
        explorer.sort = "luck"
    with pytest.raises(ValueError, match="planted holds 3 values"):
        PairExplorer(*run, planted=torch.zeros(3, dtype=torch.bool))


def test_without_a_kernel_the_page_has_the_first_rows_and_the_credit(explorer) -> None:
    shown = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "run this cell" in shown["text/plain"] and "chosen: reward" in shown["text/plain"]
    assert shown["text/html"].count("<tr>") == 1 + ON_PAPER
    assert explorer.credit.html in shown["text/html"]


def test_hostile_texts_stay_texts(run) -> None:
    rows = [{"prompt": HOSTILE, "chosen": f"good {HOSTILE}", "rejected": f"bad {HOSTILE}"}] * 2
    rows.append({"prompt": HOSTILE, "chosen": "good", "rejected": "x" * 500})
    pairs = preferences_from_rows(rows, name=HOSTILE)
    job = run[0]
    explorer = PairExplorer(job, score_pairs(job, pairs))
    pages = [explorer._repr_mimebundle_()["text/html"], explorer._credit.value]
    pages += [explorer._where.value, explorer.credit.html]
    assert all("<img" not in page for page in pages) and "&lt;img" in pages[0]
    assert max(len(text) for row in explorer.table.rows for text in row) <= 160
    # The page's own script makes text nodes of them, and nothing else.
    script = explorer.table.view._esm
    assert "textContent" in script and "innerHTML" not in script
