"""Numbers of a run in a tracker's files, read back by the tracker's own reader."""

from __future__ import annotations

import pytest
from transformers.integrations import INTEGRATION_TO_CALLBACK

from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.report_to import ReportTo, tracker_callbacks
from dpo_lab.training.run_job import run_job
from dpo_lab.training.runs import Run

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
CONFIG = TrainConfig(steps=6, eval_every=3, kl_samples=8, beta=0.3, limit=200, eval_pairs=16)


def scalars(folder) -> dict[str, dict[int, float]]:
    (logs,) = (folder / "runs").iterdir()
    reader = events.EventAccumulator(str(logs)).Reload()
    return {tag: {e.step: e.value for e in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}


def check(folder) -> None:
    """Every number of `metrics.jsonl` is there, of steps and of evaluations, and KL among them."""
    found, records = scalars(folder), Run(folder).records()
    measured = {"eval", "kl", "entropy", "score", "listed", "samples"}
    compared = 0
    for record in records:
        for key, value in record.values.items():
            if record.step == 0 and key.split("/")[0] not in measured:
                continue
            side = "eval" if key.split("/")[0] in measured else "train"
            tag = f"{side}/{key.removeprefix('eval/')}"
            assert found[tag][record.step] == pytest.approx(value, rel=1e-5), tag
            compared += 1
    assert compared > 100
    assert set(found["eval/kl/per_token"]) == {0, 3, 6}
    assert found["eval/kl/per_token"][6] > found["eval/kl/per_token"][0] == 0
    assert set(found["train/loss"]) == set(range(1, 7))
    assert found["train/learning_rate"][1] == pytest.approx(records[1].learning_rate)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The folder of a run that reported to TensorBoard."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPO_LAB_CACHE", str(folder.parent / "cache"))
        run_job(CONFIG, folder, measure=False, callbacks=[ReportTo("tensorboard", folder)])
    return folder


def test_tensorboard_holds_every_number(reported):
    check(reported)


def test_the_settings_shown_are_the_labs(reported):
    (logs,) = (reported / "runs").iterdir()
    reader = events.EventAccumulator(str(logs)).Reload()
    text = reader.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"beta": 0.3' in text and '"eval_every": 3' in text
    assert "warmup_steps" not in text, "transformers' own would contradict the run"


def test_a_run_in_the_background_reports(tmp_path):
    run = BackgroundRun(CONFIG, folder=tmp_path / "run", report_to=["tensorboard"]).start()
    run.wait()
    check(tmp_path / "run")


def test_a_tracker_that_is_not_there_is_refused_in_words():
    with pytest.raises(ValueError, match="report_to='nonsense': .*tensorboard"):
        tracker_callbacks("nonsense")
    missing = [name for name in ("wandb", "comet_ml") if _fails(name)]
    for name in missing:
        with pytest.raises(ValueError, match=f"report_to='{name}': {name} is not installed"):
            tracker_callbacks(["tensorboard", name])
    assert tracker_callbacks("none") == tracker_callbacks(None) == []


def _fails(name: str) -> bool:
    try:
        INTEGRATION_TO_CALLBACK[name]()
    except RuntimeError:
        return True
    return False
