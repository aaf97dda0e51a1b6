from __future__ import annotations

import csv
import threading
from dataclasses import replace

import ipywidgets as widgets
import pytest
from datasets import Dataset
from page_messages import says

from dpo_lab import TrainConfig
from dpo_lab.models.loading import load_model
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import Run
from dpo_lab.ui.html.run_status import numbers, share_done, status
from dpo_lab.ui.widgets.live import NOT_DRAWN
from dpo_lab.ui.workbench.run_store import FinishedRun
from dpo_lab.ui.workbench.workbench import Workbench

pytestmark = pytest.mark.slow

QUICK = {"steps": 8, "batch_pairs": 4, "eval_every": 4, "eval_pairs": 8, "kl_samples": 5}
PROMPTS = 3


@pytest.fixture
def bench(tmp_path):
    made = Workbench(folder=tmp_path / "runs", **QUICK)
    made.warm_up.wait(60)
    yield made
    made.close()


def _curve(bench: Workbench, meta: str):
    return next(trace for trace in bench.figure.data if trace.meta == meta)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dpo-lab")]


def test_a_run_from_code_is_drawn_shelved_and_kept(bench: Workbench) -> None:
    run = bench.train(beta=0.5).wait(120)
    assert run is bench.run and run.state == "done" and bench.state.phase == "done"
    assert list(_curve(bench, "loss").x) == list(range(1, 9))
    assert [r["loss"] for r in run.records if r.step] == pytest.approx(
        list(_curve(bench, "loss").y)
    )
    assert bench.bar.status.value == "done · step 8/8 · beta 0.5"
    assert bench.bar.progress.value == 1 and "pairs/s" in bench.bar.numbers.value
    assert "<td" in bench.screen.samples.value and "after step 8" in bench.screen.samples.value
    assert Run.open(run.folder).summary["state"] == "done" and list(bench.shelf.runs) == [
        run.folder.name
    ]
    assert not _threads()


def test_controls_show_what_code_set_and_do_not_train_by_it(bench: Workbench) -> None:
    assert bench.bar.instant.value
    bench.change(beta=2.0)
    assert bench.controls["beta"].value.value == 2.0 and bench.run is None
    with pytest.raises(ValueError, match="beta=-1"):
        bench.train(beta=-1)
    assert bench.run is None


def test_letting_go_of_beta_trains_anew_and_keeps_the_run_before_as_a_faint_line(bench) -> None:
    first = bench.train(beta=0.5).wait(120)
    bench.controls["beta"].value.value = 3.0
    second = bench.run
    second.wait(120)
    assert second is not first and second.config.beta == 3.0
    assert second.folder is None and len(bench.shelf.runs) == 2
    behind = _curve(bench, "former 0 kl/per_token")
    assert list(behind.x) == [0, 4, 8] and behind.text[-1] == "β 0.5"
    bench.bar.instant.value = False
    bench.controls["beta"].value.value = 1.0
    assert bench.run is second


def test_beta_and_learning_rate_move_in_mid_run_and_leave_a_mark(bench: Workbench) -> None:
    run = bench.step(3).reach(3, 60)
    bench.controls["beta"].value.value = 2.0
    bench.controls["learning_rate"].value.value = 1e-4
    bench.resume().wait(120)
    betas = [record.beta for record in run.records if record.step]
    assert betas == [0.3] * 3 + [2.0] * 5
    assert run.records[4].step == 4 and run.records[4]["change/learning_rate"] == 1e-4
    labels = {note.text for note in bench.figure.layout.annotations if note.name == "change"}
    assert {shape.x0 for shape in bench.figure.layout.shapes} == {4} and labels
    assert len(bench.shelf.runs) == 1


@pytest.mark.parametrize(("name", "typed"), [("lora_rank", "8"), ("model", "smollm2")])
def test_a_default_that_follows_another_setting_does_not_reach_the_running_policy(
    bench: Workbench, name: str, typed: str
) -> None:
    run = bench.step(3).reach(3, 60)
    bench.controls[name].value.value = typed
    assert bench.state.value("learning_rate") != 1e-3  # of the next run
    bench.bar.stop.click()
    run.wait(60)
    rate = bench.state.config.learning_rate
    assert rate is None and bench.resume().wait(120).state == "done"
    records = Run.open(run.folder).records()
    assert [r.step for r in records if r.get("change/learning_rate") is not None] == []
    assert len(records) == 9


def test_a_learning_rate_that_is_left_open_again_is_that_of_the_runs_own_model(bench) -> None:
    run = bench.step(2).reach(2, 60)
    bench.change(learning_rate=5e-4)
    run.control.step(2)
    run.reach(4, 60)
    bench.change(learning_rate=None, lora_rank=4)
    bench.resume().wait(120)
    changed = {r.step: r.get("change/learning_rate") for r in run.records}
    assert {step: rate for step, rate in changed.items() if rate} == {3: 5e-4, 5: 1e-3}


def test_a_loaded_run_brings_the_learning_rate_that_it_goes_on_with(bench, tmp_path) -> None:
    run = bench.step(3).reach(3, 60)
    bench.change(learning_rate=2e-4, beta=0.7)
    bench.stop()  # before a step shows it: the checkpoint has it
    run.wait(60)
    later = Workbench(folder=tmp_path / "runs", **QUICK)
    later.show(later.shelf.runs[run.folder.name])
    assert later.state.config.learning_rate == later.controls["learning_rate"].value.value == 2e-4
    assert later.state.config.beta == 0.7
    resumed = later.resume().wait(120)
    assert [r.step for r in resumed.records if r.get("change/learning_rate") == 2e-4] == [4]
    assert [r.beta for r in resumed.records if r.step] == [0.3] * 3 + [0.7] * 5
    done = later.shelf.runs[run.folder.name]
    later.change(learning_rate=1e-3)
    later.show(done)
    assert done.state == "done" and later.state.config.learning_rate == 2e-4
    later.close()


def test_what_was_said_of_one_run_leaves_with_it(bench: Workbench) -> None:
    bench.train().wait(120)
    load = bench.runs.view.children[0].children[2]
    assert load.description == "Load"
    message = bench.runs._message
    for leave in (bench.reset, lambda: bench.show(*bench.shelf.runs.values())):
        bench.runs.tick(next(iter(bench.shelf.runs)))
        load.click()
        assert message.value.endswith(" is shown.")
        leave()
        assert message.value == ""
    load.click()
    bench.train().wait(120)
    assert message.value == ""
    load.click()
    bench.close()
    assert message.value == "" and bench.bar.note.value == ""
    load.click()
    assert message.value == "closed"


def test_buttons_pause_step_resume_stop(bench: Workbench) -> None:
    bar = bench.bar
    assert not bar.train.disabled and bar.pause.disabled and bar.stop.disabled
    bar.step.click()
    run = bench.run.reach(1, 60)
    bar.step.click()
    run.reach(2, 60)
    assert run.running and run.records[-1].step == 2
    bar.stop.click()
    assert run.wait(60).state == "stopped"
    assert not bar.train.disabled and bar.stop.disabled and bar.pause.description == "Resume"
    bar.pause.click()  # goes on in the same folder
    resumed = bench.run.wait(120)
    assert resumed is not run and resumed.state == "done" and resumed.folder == run.folder
    assert [record.step for record in resumed.records] == list(range(9))
    assert list(bench.shelf.runs) == [run.folder.name]


def test_a_new_workbench_gets_ready_by_itself_and_a_run_does_not_wait_for_it() -> None:
    bench = Workbench(folder=None, **QUICK)
    assert bench.warm_up.wait(60).error is None
    assert bench.bar.status.value == "idle · step 0" and bench.run is None
    theories = bench.screen.theories
    theories.prepared(bench.warm_up.job)  # as the next run will
    assert theories.current and not theories.compute() and not bench.shelf.runs
    eager = Workbench(folder=None, **QUICK)
    assert eager.train().wait(60).state == "done" and eager.bar.status.value.startswith("done")
    eager.close()
    assert eager.warm_up.error is None and not _threads()


def test_a_second_start_is_refused(bench: Workbench) -> None:
    run = bench.step()
    with pytest.raises(RuntimeError, match="going on"):
        bench.train()
    with pytest.raises(RuntimeError, match="going on"):
        bench.reset()
    bench.bar.train.click()
    assert bench.run is run and "going on" in bench.bar.status.value
    bench.stop()
    run.wait(60)


def test_an_error_stands_in_the_status_line_and_is_raised_by_wait(bench: Workbench) -> None:
    run = bench.train(data="no<b>where.jsonl")
    with pytest.raises(FileNotFoundError):
        run.wait(60)
    assert bench.bar.status.value.startswith("failed: ")
    assert "no&lt;b&gt;where" in bench.bar.status.value
    assert not bench.bar.train.disabled and not _threads()
    assert bench.train(data="reviews").wait(120).state == "done"


def test_a_new_workbench_ends_the_run_of_the_one_before(bench: Workbench) -> None:
    run = bench.step()
    after = Workbench(folder=None, **QUICK)
    assert run.state == "stopped"
    assert "another workbench" in bench.bar.status.value and bench.bar.train.disabled
    after.close()
    assert not _threads()


def test_the_button_does_not_train_while_a_value_is_wrong(bench: Workbench) -> None:
    bench.controls["steps"].value.value = "many"
    bench.bar.train.click()
    assert bench.run is None and "steps" in bench.bar.status.value
    bench.controls["steps"].value.value = "4"
    bench.bar.train.click()
    assert len(bench.run.wait(60).records) == 5


def test_a_workbench_that_is_refused_leaves_the_one_before_alone(bench: Workbench) -> None:
    run = bench.step()
    with pytest.raises(ValueError, match="beta=-1"):
        Workbench(beta=-1)
    assert run.running and "closed" not in bench.bar.status.value
    bench.stop()
    run.wait(60)
    failed = bench.train(data="nowhere.jsonl")
    Workbench(folder=None).close()  # what the other one's run fails with is not its business
    assert failed.state == "failed"


def test_after_closing_nothing_starts_any_more(bench: Workbench) -> None:
    bench.train().wait(120)
    bench.close()
    bench.controls["beta"].value.value = 3.0
    for name in bench.runs.ticked:
        says(bench.runs.table, {"row": name, "ticked": False})
    assert bench.bar.train.disabled and bench.run is None and not _threads()
    with pytest.raises(RuntimeError, match="closed"):
        bench.train()


def test_every_run_is_shelved_however_soon_the_next_begins(bench: Workbench) -> None:
    for seed in range(4):
        run = bench.train(seed=seed)
        run.reach(99)  # or its end; not wait(): that may not be drawn yet
    run.wait(60)
    assert len(bench.shelf.runs) == 4


def test_model_and_data_that_were_handed_over_cannot_be_renamed() -> None:
    rows = [
        {"prompt": f"the plot was {i}", "chosen": "great", "rejected": "awful"} for i in range(8)
    ]
    bench = Workbench(data=rows, folder=None, **QUICK | {"held_out": 0.5})
    with pytest.raises(ValueError, match="data='places': this workbench was made with"):
        bench.train(data="places")
    own = bench.train().wait(60)
    other = Workbench(folder=None, **QUICK)
    shelved = other.shelf.add(own)
    with pytest.raises(ValueError, match="in memory"):
        other.show(shelved)
    other.close()


def test_a_failure_to_draw_is_raised_and_the_page_still_shows_the_end(bench: Workbench) -> None:
    def fail(spec) -> None:
        raise OSError("no figure today")

    bench.figure.draw = fail
    run = bench.train()
    with pytest.raises(OSError, match="no figure today"):
        run.wait(60)
    assert run.state == "done" and not bench.bar.train.disabled
    assert bench.bar.status.value.startswith("done") and len(bench.shelf.runs) == 1


def test_a_page_that_does_not_show_the_curves_is_told_of_in_the_status(bench: Workbench) -> None:
    bench.train().wait(60)
    bench.figure.trouble = NOT_DRAWN
    bench.figure.on_trouble()
    status = bench.bar.status.value
    assert status.startswith("done · step") and status.endswith(f" · {NOT_DRAWN}")
    bench.figure.trouble = ""
    bench.figure.on_trouble()
    assert bench.bar.status.value + f" · {NOT_DRAWN}" == status


def test_a_run_taken_up_again_keeps_what_it_had_if_it_does_not_get_to_train(bench) -> None:
    run = bench.step(5).reach(5, 60)
    bench.stop()
    run.wait(60)
    name = run.folder.name
    bench.resume()
    bench.stop()  # while it is prepared, or just after
    bench.run.wait(60)
    kept = bench.shelf.runs[name]
    assert kept.state == "stopped" and kept.records[-1].step >= 5 and kept.samples
    lock = Run(run.folder)
    lock.lock()
    with pytest.raises(FileExistsError):
        bench.resume().wait(60)
    assert bench.bar.status.value.startswith("failed") and bench.shelf.runs[name] is kept
    lock.unlock()
    assert bench.resume().wait(120).state == "done"
    assert len(bench.shelf.runs[name].samples) == len(kept.samples)


def test_a_run_whose_folder_is_gone_cannot_go_on(bench: Workbench) -> None:
    run = bench.step(2).reach(2, 60)
    bench.stop()
    run.wait(60)
    run.folder.rename(run.folder.with_name("moved"))
    with pytest.raises(FileNotFoundError, match="no run there"):
        bench.resume()
    assert not _threads()


def test_beta_moved_between_stop_and_resume_takes_effect(bench: Workbench) -> None:
    run = bench.step(3).reach(3, 60)
    bench.stop()
    run.wait(60)
    bench.change(beta=2.0)
    resumed = bench.resume().wait(120)
    assert [r.beta for r in resumed.records if r.step] == [0.3] * 3 + [2.0] * 5


def test_a_stop_after_the_last_step_comes_too_late(bench: Workbench) -> None:
    run = bench.train()
    run.reach(8, 60)
    bench.stop()
    assert run.wait(60).state == "done"
    assert next(iter(bench.shelf.runs.values())).state == "done"


def test_epochs_instead_of_the_steps_of_micro() -> None:
    bench = Workbench(folder=None, epochs=1)
    assert bench.state.config.steps is None and bench.state.config.epochs == 1
    bench.close()


def test_reset_clears_the_curves_and_the_runs_behind(bench: Workbench) -> None:
    bench.train().wait(120)
    bench.train(beta=1.0).wait(120)
    bench.reset()
    assert bench.run is None and all(len(trace.x) == 0 for trace in bench.figure.data)
    assert bench.bar.status.value == "idle · step 0"


def test_runs_of_earlier_sessions_are_found_loaded_and_gone_on_with(bench, tmp_path) -> None:
    run = bench.step(3).reach(3, 60)
    bench.stop()
    run.wait(60)
    bench.train(beta=1.0).wait(120)
    later = Workbench(folder=tmp_path / "runs", **QUICK)
    assert len(later.shelf.runs) == 2
    unfinished = later.shelf.runs[run.folder.name]
    later.show(unfinished)
    assert later.state.config.beta == 0.3 and later.controls["beta"].value.value == 0.3
    assert later.bar.pause.description == "Resume" and len(_curve(later, "loss").x) == 3
    assert later.resume().wait(120).state == "done"
    later.close()


def test_a_loaded_run_leaves_open_what_follows_the_model(bench: Workbench, tmp_path) -> None:
    """A kept run has micro's own learning rate; with LoRA, micro's is another."""
    own = Run.open(bench.train().wait(120).folder).config.learning_rate
    later = Workbench(folder=tmp_path / "runs", **QUICK)
    later.show(*later.shelf.runs.values())
    assert later.state.config.resolved().learning_rate == own
    later.change(lora_rank=2)
    of_lora = TrainConfig(lora_rank=2).resolved().learning_rate
    assert later.state.config.resolved().learning_rate == of_lora != own
    later.close()


def test_a_page_that_another_kernel_wrote_is_not_written_over(bench: Workbench, tmp_path) -> None:
    pages = []
    for beta in (0.5, 2.0):
        later = Workbench(folder=tmp_path / "runs", **QUICK)
        later.controls["beta"].value.value = beta
        later.run.wait(120)
        later.screen.put_away()
        (name,) = later.shelf.runs
        pages.append(later.shelf.report(name))
        assert later.shelf.report(name) == pages[-1], "its own is written anew"
        later.close()
    assert [page.name for page in pages] == ["run 1.html", "run 1 (2).html"]
    assert "β 0.5" in pages[0].read_text() and "β 2" in pages[1].read_text()


def test_an_unreadable_run_is_named_and_the_others_are_shown(bench, tmp_path) -> None:
    bench.train().wait(120)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    later = Workbench(folder=tmp_path / "runs", **QUICK)
    assert len(later.shelf.runs) == 1
    assert "broken" in later.runs._note.value
    later.close()


def test_ticked_runs_are_exported_reported_and_compared(bench: Workbench, tmp_path) -> None:
    names = [bench.train(beta=beta).wait(120).folder.name for beta in (0.5, 2.0)]
    assert bench.runs.ticked == names
    path = bench.shelf.export_csv(names, tmp_path / "runs.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18 and {row["run"] for row in rows} == set(names)
    kept = bench.shelf.runs[names[1]].records
    assert [float(row["loss"]) for row in rows[10:]] == [r["loss"] for r in kept if r.step]
    assert bench.shelf.report(names[0]).read_text().startswith("<!DOCTYPE html>")
    compare = bench.runs.view.children[0].children[1]
    compare.click()
    assert bench.runs._answers.value.count("<tr>") > PROMPTS
    assert "β 0.5" in bench.runs._answers.value and "β 2" in bench.runs._answers.value


def test_a_model_data_and_a_score_of_ones_own() -> None:
    model = load_model("micro")
    rows = [
        {"prompt": f"the plot was {word}", "chosen": "great", "rejected": "<script>awful"}
        for word in "good fine great awful superb warm strong flat".split()
    ]
    bench = Workbench(
        model, rows, reward_fn=lambda prompt, answer: float(len(answer)), folder=None,
        **QUICK | {"held_out": 0.5},
    )  # fmt: skip
    run = bench.train().wait(120)
    assert run.job.policy is not model and run.records.last("score/policy") is not None
    assert bench.controls["model"].value.disabled and bench.controls["data"].value.disabled
    bench.close()


def test_text_of_data_and_model_is_escaped_wherever_it_is_shown() -> None:
    attack = "<img src=x onerror=alert(1)>"
    rows = [
        {"prompt": f"{attack} {i}", "chosen": f"great {attack}", "rejected": "awful"}
        for i in range(12)
    ]
    bench = Workbench(data=rows, folder=None, **QUICK | {"held_out": 0.5})
    bench.train().wait(120)
    bench.runs.view.children[0].children[1].click()
    pages = [bench.screen.samples.value, bench.runs._answers.value]
    assert all("<img" not in page and "&lt;img" in page for page in pages)
    bench.close()


def test_the_picture_is_the_figure_for_a_page_without_a_kernel(bench: Workbench) -> None:
    bench.train().wait(120)
    picture = bench.picture()
    loss = next(trace for trace in picture.data if trace.meta == "loss")
    assert list(loss.y) == list(_curve(bench, "loss").y)
    bundle = bench._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "run this cell" in str(bundle)


def test_what_the_log_ratios_mean_is_said_where_both_fall(bench: Workbench) -> None:
    run = bench.train(beta=0.02, steps=60, eval_every=0).wait(120)
    assert run.records.last("logratios/chosen") < 0 > run.records.last("logratios/rejected")
    assert "Both log-ratios are below zero" in bench.screen.notice.value


def test_the_exact_frontier_stands_behind_a_run_of_micro(bench: Workbench) -> None:
    bench.train().wait(120)
    frontier, star = _curve(bench, "frontier"), _curve(bench, "optimum")
    assert len(frontier.x) > 20 and len(star.x) == 1
    assert list(_curve(bench, "path").x) == [
        pytest.approx(r["listed/kl"]) for r in bench.run.records if r.get("listed/kl") is not None
    ]
    assert "of the reward that can be gained" in bench.screen.notice.value
    plain = Workbench(folder=None, data=[
        {"prompt": f"the plot was {i}", "chosen": "great", "rejected": "awful"} for i in range(8)
    ], **QUICK | {"held_out": 0.5})  # fmt: skip
    plain.train().wait(60)
    assert len(_curve(plain, "frontier").x) == 0 and "gained" not in plain.screen.notice.value
    plain.close()


def test_micro_begins_with_settings_that_suit_it_and_others_with_the_defaults() -> None:
    bench = Workbench(folder=None)
    assert (bench.state.config.steps, bench.state.config.beta) == (300, 0.3)
    other = Workbench("smollm2", "places", folder=None)
    assert other.state.config == TrainConfig(model="smollm2", data="places")
    assert not other.bar.instant.value
    other.close()


def test_a_run_that_is_taken_up_again_has_no_total_before_it_is_loaded(tmp_path) -> None:
    """Its folder tells 3 steps; of how many is known once it is prepared."""
    config = TrainConfig(steps=8)
    kept = Run.create(tmp_path / "run", config, {})
    for step in range(1, 4):
        timing = {"seconds": 0.5, "pairs_per_second": 16.0, "peak_memory_gb": 1.0}
        kept.append(StepRecord(step, 0.0, 8 * step, 0.1, 1e-3, {}, timing))
    run = BackgroundRun(config, folder=kept.path)
    assert share_done(run) == 0 and status(run) == "preparing · step 3 · beta 0.1"
    assert numbers(run) == "16 pairs/s · 1.0 GB · loading"
    run.total_steps, run.doing = 8, None
    assert share_done(run) == 3 / 8 and numbers(run) == "step 3/8 · 16 pairs/s · 2 s left · 1.0 GB"
    ended = FinishedRun("old", config, run.records, [], "done")  # of a version that kept no total
    assert share_done(ended) == 1
    assert share_done(replace(ended, state="unfinished")) == 0


def test_time_left_counts_the_evaluations_to_come() -> None:
    """30 of 100 steps done, half a second each; 3 evaluations to come, of 10 s each."""
    run = BackgroundRun(TrainConfig(steps=100, eval_every=25))
    run.total_steps, run.doing = 100, None
    for step in range(31):
        timing = {"seconds": 0.5, "pairs_per_second": 16.0, "peak_memory_gb": 1.0} if step else {}
        timing |= {"evaluation_seconds": 10.0} if step % 25 == 0 else {}
        run.records.append(StepRecord(step, 0.0, 8 * step, 0.1, 1e-3, {}, timing))
    assert numbers(run) == "step 30/100 · 16 pairs/s · 65 s left · 1.0 GB"


def test_a_plain_model_and_a_dataset_are_shown_by_the_models_name(tmp_path) -> None:
    micro = load_model("micro")
    rows = [{"prompt": "the acting felt", "chosen": "good", "rejected": "bad"}] * 12
    given = (micro.model, micro.tokenizer)
    bench = Workbench(given, Dataset.from_list(rows), folder=None, held_out=0.0, **QUICK)
    try:
        assert bench.state.config.data == "(in memory)" and bench.controls["data"].value.disabled
        run = bench.train().wait(120)
        assert run.state == "done" and len(run.job.train) == 12
        assert run.job.policy.model is not micro.model, "a copy is trained"
    finally:
        bench.close()


def test_the_model_of_a_ticked_run_is_exported_while_the_page_answers(bench, tmp_path) -> None:
    run, table = bench.train(steps=2, lora_rank=2).wait(120), bench.screen.runs
    button = next(one for one in _buttons(table.view) if one.description == "Export")
    table.clear()
    button.click()
    assert "Tick a run first" in table._message.value
    table.tick(run.folder.name)
    button.click()
    table._exporting.join(120)
    folder = run.folder / "export" / "merged-float32"
    assert (folder / "model.safetensors").exists() and (folder / "README.md").exists()
    assert f"Written: {folder}" in table._message.value
    assert "0% of the greedy answers differ" in table._message.value
    bench.shelf.runs["run 9"] = replace(
        bench.shelf.runs[run.folder.name], folder=None, name="run 9"
    )
    table.clear()
    table.tick("run 9")
    button.click()
    assert "was kept in no folder" in table._message.value


def _buttons(view):
    found = [view] if isinstance(view, widgets.Button) else []
    return found + [each for child in getattr(view, "children", ()) for each in _buttons(child)]
