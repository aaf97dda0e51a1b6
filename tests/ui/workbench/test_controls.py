from __future__ import annotations

from dataclasses import fields

import ipywidgets as widgets
import pytest

from dpo_lab import TrainConfig
from dpo_lab.training.config import setting_texts
from dpo_lab.ui.workbench.controls import MAIN, Control, setting_names
from dpo_lab.ui.workbench.state import WorkbenchState


@pytest.fixture
def state() -> WorkbenchState:
    return WorkbenchState(TrainConfig())


def test_every_setting_has_a_control_and_says_what_it_does(state: WorkbenchState) -> None:
    names = {field.name for field in fields(TrainConfig)}
    assert set(setting_names()) == names - {"columns"} and setting_names()[: len(MAIN)] == [*MAIN]
    for name in setting_names():
        control = Control(state, name)
        assert len(setting_texts()[name]) > 10
        assert control.value.tooltip == setting_texts()[name]
    assert "closer to the reference" in setting_texts()["beta"]


@pytest.mark.parametrize(
    ("field", "entered", "value"),
    [
        ("beta", 2.0, 2.0),
        ("learning_rate", 1e-4, 1e-4),
        ("steps", " 40 ", 40),
        ("steps", "", None),
        ("lora_rank", "8", 8),
        ("lora_targets", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("held_out", "0.25", 0.25),
        ("loss", "ipo", "ipo"),
        ("schedule", "cosine", "cosine"),
        ("data", "places", "places"),
        ("revision", "main", "main"),
        ("gradient_checkpointing", True, True),
    ],
)
def test_what_is_entered_becomes_the_setting(state, field, entered, value) -> None:
    state.config = TrainConfig(steps=7)
    control = Control(state, field)
    control.value.value = entered
    assert getattr(state.config, field) == value and state.problems == {}


def test_the_control_follows_the_setting(state: WorkbenchState) -> None:
    beta, rate, steps = (Control(state, name) for name in ("beta", "learning_rate", "steps"))
    assert isinstance(beta.value, widgets.FloatLogSlider) and beta.value.value == 0.1
    assert rate.value.value == 1e-3  # the default of micro
    state.set(beta=3.0, model="smollm2", steps=12)
    assert (beta.value.value, rate.value.value, steps.value.value) == (3.0, 3e-5, "12")
    assert state.config.learning_rate is None  # shown, not set
    state.set(beta=500.0)  # beyond the slider's end: shown at its end, kept as it is
    assert beta.value.value == 10 and state.config.beta == 500


@pytest.mark.parametrize(
    ("field", "entered", "words"),
    [
        ("steps", "many", "steps=many: must be a whole number."),
        ("steps", "1.5", "steps=1.5: must be a whole number."),
        ("batch_pairs", "0", "batch_pairs=0: must be a finite number &gt;= 1."),
        ("held_out", "<b>", "held_out=&lt;b&gt;: must be a number."),
        ("held_out", "1", "held_out=1.0: must be in [0, 1)."),
        ("max_grad_norm", "nan", "max_grad_norm=nan: must be a finite number &gt; 0."),
    ],
)
def test_a_wrong_value_is_refused_beside_its_control(state, field, entered, words) -> None:
    control, other = Control(state, field), Control(state, "beta")
    kept = getattr(state.config, field)
    control.value.value = entered
    assert words in control.problem.value and other.problem.value == ""
    assert getattr(state.config, field) == kept
    assert control.value.value == entered  # left there to be fixed
    control.value.value = "" if kept is None else str(kept)
    assert control.problem.value == "" and state.problems == {}


def test_two_settings_that_exclude_each_other_are_told_at_the_one_just_entered(state) -> None:
    state.set(steps=5)
    epochs = Control(state, "epochs")
    epochs.value.value = "2"
    assert "give one of them" in epochs.problem.value and state.config.epochs is None


def test_a_chat_template_that_cannot_be_read_is_refused_in_words(state, tmp_path) -> None:
    control, steps = Control(state, "chat_template"), Control(state, "steps")
    control.value.value = "nowhere.jinja"
    assert control.problem.value.startswith("chat_template=&#x27;nowhere.jinja&#x27;: no such file")
    assert state.config.chat_template is None and control.value.value == "nowhere.jinja"
    steps.value.value = "12"
    assert state.config.steps == 12 and list(state.problems) == ["chat_template"]
    (tmp_path / "empty.jinja").write_text("no template")
    control.value.value = str(tmp_path / "empty.jinja")
    assert "holds no template" in control.problem.value and state.config.chat_template is None


def test_a_chat_template_is_shown_by_its_name_even_when_its_file_is_gone(state, tmp_path) -> None:
    control, rate = Control(state, "chat_template"), Control(state, "learning_rate")
    path = tmp_path / "short.jinja"
    path.write_text("{{ messages }}")
    control.value.value = str(path)
    assert state.config.chat_template == control.value.value == str(path) and not state.problems
    path.unlink()
    state.set(model="smollm2")
    assert rate.value.value == 3e-5 and control.value.value == str(path) and not state.problems


def test_settings_with_a_template_that_is_nowhere_are_refused_from_code() -> None:
    with pytest.raises(FileNotFoundError, match="chat_template='nowhere.jinja': no such file"):
        WorkbenchState(TrainConfig(chat_template="nowhere.jinja"))
