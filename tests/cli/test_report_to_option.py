"""`dpo-lab train --report-to`: files that TensorBoard reads, or a message before anything loads."""

from __future__ import annotations

import pytest
from command_line import run_cli

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_a_run_of_the_command_line_is_in_tensorboard(capsys, tmp_path):
    words = ["--steps", "4", "--eval-every", "2", "--kl-samples", "8", "--limit", "200"]
    out = tmp_path / "run"
    code, _, error = run_cli(capsys, "train", *words, "--report-to", "tensorboard", "--out", out)
    assert (code, error) == (0, "")
    (logs,) = (out / "runs").iterdir()
    reader = events.EventAccumulator(str(logs)).Reload()
    assert [event.step for event in reader.Scalars("eval/kl/per_token")] == [0, 2, 4]
    assert [event.step for event in reader.Scalars("train/rewards/margins")] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_there_is_said_at_once(capsys, tmp_path):
    out = tmp_path / "run"
    code, _, error = run_cli(capsys, "train", "--report-to", "nonsense", "--out", out)
    assert code == 2 and "report_to='nonsense': unknown. Use tensorboard" in error
    assert not out.exists()
