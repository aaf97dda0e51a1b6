from __future__ import annotations

import pytest
from page_messages import says

from dpo_lab.ui.widgets.free_widgets import free
from dpo_lab.ui.widgets.table import Table


@pytest.fixture
def table() -> Table:
    made = Table("Runs", {"run": 70, "step": 30}, ["step"], "Draw it")
    made.rows = [["b", "2"], ["a", "1"]]
    return made


def test_a_page_ticks_one_row_at_a_time_whatever_it_missed(table: Table) -> None:
    says(table, {"row": "a", "ticked": True})
    table.ticked = [*table.ticked, "c"]  # a run that ended, of which the page does not know yet
    says(table, {"row": "b", "ticked": True})
    assert table.ticked == ["a", "c", "b"]
    says(table, {"row": "a", "ticked": True})
    says(table, {"row": "b", "ticked": False})
    assert table.ticked == ["c", "a"]


@pytest.mark.parametrize("content", [None, {}, {"row": 1, "ticked": True}, {"row": "a"}, "a"])
def test_a_message_that_no_page_sends_does_nothing(table: Table, content) -> None:
    says(table, content)
    assert table.ticked == []


def test_what_changes_is_on_a_model_that_every_page_knows_without_a_module(table: Table) -> None:
    assert (table._model_module, table._model_name) == ("@jupyter-widgets/base", "WidgetModel")
    sent = table.view.get_state()
    assert sent["sheet"] == f"IPY_MODEL_{table.model_id}"
    assert list(sent["_dom_classes"]) == ["dpo-table"]
    assert table.columns == [["run", 70, False], ["step", 30, True]]


def test_freeing_its_view_frees_all_of_it(table: Table) -> None:
    free(table.view)
    assert [one.comm for one in (table, table.view, table.view.layout)] == [None] * 3
