"""A run in a few numbers: a row of the table of runs, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_lab.training.history import History
from dpo_lab.training.loss_description import loss_words
from dpo_lab.training.records import StepRecord
from dpo_lab.training.runs import Run

if TYPE_CHECKING:
    from dpo_lab.training.config import TrainConfig

COLUMNS = ("run", "state", "model", "data", "loss", "beta", "step", "margin", "KL", "score")
"""Of a table of runs."""

KL_TILE = "KL(policy ‖ reference)"


def start_loss(
    config: TrainConfig, records: Sequence[StepRecord] = ()
) -> list[tuple[int, float]] | None:
    """The loss where the policy equals the reference: from which step on, and how much.

    It is ln 2 for DPO; under other losses it may change with beta in mid-run. None where it is not
    a number: without a reference, or with pairs that are weighed.
    """
    from dpo_lab.objective.pair_logps import PairLogps

    loss = config.loss_function
    if config.on_policy or not loss.has_initial_value or config.use_weighting:
        return None
    betas = History.of(records).columns("beta")
    begun = betas[np.diff(betas[:, 1], prepend=np.nan) != 0].tolist() or [(0, config.beta)]
    return [
        (int(step), loss(PairLogps.at_reference(), beta, **config.loss_options).item())
        for step, beta in begun
    ]


def run_row(run: Run) -> dict[str, Any]:
    """A run's folder in one row; read as files, without torch."""
    return row_of(run.path.name, run.summary["state"], run.settings, run.records())


NOT_READABLE = (ValueError, KeyError, TypeError, AttributeError, OSError)
"""What reading a run's folder raises that was touched."""


@contextmanager
def shape_checked(run: Run) -> Iterator[None]:
    """What is read of a run in here has the shape that the lab writes, or the run is named.

    Raises:
        ValueError: If a value is missing or of another kind.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run.path}: a file of this run has not the shape that the lab writes "
            f"({type(error).__name__}: {error}). It was changed by hand or by a fault."
        ) from error


def run_rows(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each run, and why those that cannot be read cannot."""
    rows, reasons = [], []
    for run in runs:
        try:
            rows.append(run_row(run))
        except NOT_READABLE as error:
            rows.append(dict.fromkeys(COLUMNS, "") | {"run": run.path.name, "state": "unreadable"})
            reasons.append(f"{run.path.name} is not readable: {error}")
    return rows, reasons


def row_of(
    name: str, state: str, settings: Mapping[str, Any], records: Sequence[StepRecord]
) -> dict[str, Any]:
    """A run in one row: what it was, how far it is, its last measured numbers.

    Args:
        name: Its name.
        state: How it stands.
        settings: Its configuration as plain values.
        records: What it measured.
    """
    records = History.of(records)
    cut = (records.newest("kl/per_token") or {}).get("kl/cut")
    return {
        "run": name,
        "state": state,
        "model": settings["model"],
        "data": settings["data"],
        "loss": loss_words(settings),
        "beta": settings["beta"],
        "step": records[-1].step if records else 0,
        "margin": _shown(records, "rewards/margins"),
        "KL": _shown(records, "kl/per_token", "≥ " * bool(cut)),
        "score": _shown(records, "score/policy"),
    }


def report_of(run: Run, *, single_file: bool = False) -> Path:
    """Write a run's report beside its records.

    Args:
        run: The run.
        single_file: Whether plotly is put inside, 5 MB, so that the page can be sent alone;
            otherwise it is a file in the folder of runs that all their pages read.

    Returns:
        The path of `report.html`.
    """
    from dpo_lab.ui.report.page import shared_plotly, write_report

    config, records = run.config, run.records()
    return write_report(
        run.path / "report.html",
        title=run.path.name,
        config=config.as_dict(),
        records=records,
        samples=run.samples(),
        summary=tiles(records, run.summary.get("outcome")),
        environment=run.environment,
        start_loss=start_loss(config, records),
        library=None if single_file else shared_plotly(run.path.resolve().parent),
    )


def tiles(records: Sequence[StepRecord], outcome: Mapping | None) -> dict[str, dict[str, Any]]:
    """Numbers before and after, under the names a reader knows.

    Args:
        records: Of one run.
        outcome: Scores before and after, as in `summary.json`.
    """
    records, tiles = History.of(records), {}
    for label, key, text in (
        ("Held-out accuracy", "eval/rewards/accuracies", _accuracy_text),
        ("Held-out reward margin", "eval/rewards/margins", _margin_text),
        (KL_TILE, "kl/per_token", _kl_text),
    ):
        if (last := records.newest(key)) is not None:
            tiles[label] = _tile(records, key, text(last))
            if key.endswith("accuracies") and records.columns(key)[0, 0] == 0:
                tiles[label]["before"] = None  # policy and reference tie, which is not 0 %
    tiles |= _listed_tiles(records)
    if outcome:
        after = outcome["after"]
        tiles["Score"] = {
            "before": outcome["before"]["mean"],
            "after": after["mean"],
            "text": f"95 % interval {after['low']:.3f} to {after['high']:.3f}; {outcome['what']}",
        }
    return tiles


def _tile(records: History, key: str, text: str) -> dict[str, Any]:
    """A key's first value and its last; step 0 is the reference's and no policy's after it."""
    (_, before), (step, after) = records.columns(key)[[0, -1]].tolist()
    if not step:
        return {"before": before, "after": None, "text": "not measured after step 0"}
    if step < records[-1].step:
        text = f"at step {step:.0f}; {text}"
    return {"before": before, "after": after, "text": text}


def _listed_tiles(records: History) -> dict[str, dict[str, Any]]:
    """What was summed over all answers, where they are listed."""
    from dpo_lab.models.response_space import LEFT_OUT, MAX_WORDS

    tiles = {}
    for label, key, text in (
        ("Answers in no pair", "listed/no_pair", "probability, exact, at the held-out prompts"),
        (f"Over {MAX_WORDS} words", "listed/beyond", "share of the policy's own samples"),
    ):
        last = records.last(key)
        if last is not None and (key != "listed/beyond" or last > LEFT_OUT):
            tiles[label] = _tile(records, key, text)
    return tiles


def _accuracy_text(record: StepRecord) -> str:
    """What held-out accuracy is, with its 95 % interval where it is known how many pairs it has."""
    from dpo_lab.training.outcome import MeanCI

    text = "share of pairs whose chosen answer has the larger reward; before training they all tie"
    share, n = record["eval/rewards/accuracies"], record.get("eval/pairs")
    if (singles := record.get("eval/responses")) is not None:
        return (
            f"share of all pairs of a good and a bad response, among {singles:.0f} of them, whose "
            "good one has the larger reward; before training they all tie"
        )
    if not n:
        return text
    interval = MeanCI.of_share(share, int(n))
    return f"95 % interval {interval.low:.2f} to {interval.high:.2f}, n = {n:.0f} pairs; {text}"


def _margin_text(record: StepRecord) -> str:
    """What the margin is, with its standard error where it was measured."""
    text = "β × (chosen − rejected log-ratio), mean over pairs"
    error, n = record.get("eval/rewards/margins_stderr"), record.get("eval/pairs")
    if (singles := record.get("eval/responses")) is not None:
        text = "β × log-ratio, mean of good minus mean of bad responses"
        return f"± {error or 0:.3f} (1 s.e.), n = {singles:.0f} responses; {text}"
    return text if error is None else f"± {error:.3f} (1 s.e.), n = {n:.0f} pairs; {text}"


def _kl_text(record: StepRecord) -> str:
    """Of how many samples it is, and whether it is less than the whole."""
    error, prompts, cut = map(record.get, ("kl/per_token_stderr", "kl/prompts", "kl/cut"))
    text = "nats, on the policy's own samples"
    if error is not None:
        text = f"nats, ± {error:.3f} (1 s.e.), on {record['kl/n']:.0f} samples"
        text += f" of {prompts:.0f} prompts (error for prompts like these)" if prompts else ""
    if cut:
        text += f"; at least: {cut:.0%} of the answers were cut at their limit"
    return text


def _shown(records: History, key: str, mark: str = "") -> str:
    """The last value of a policy that was trained, and its step where that is not the last."""
    last = records.newest(key)
    if last is None or not last.step:
        return "–"
    at = "" if last.step == records[-1].step else f" (step {last.step})"
    return f"{mark}{last[key]:.3f}{at}"
