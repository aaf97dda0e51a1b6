"""Sweeps: a resumable grid of runs over settings, with the reference scored only once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from dpo_lab.models.builtin import builtin_model
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.loading import load_model
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.training import cluster
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.control import RunControl
from dpo_lab.training.files import as_file_name
from dpo_lab.training.heartbeat import last_beat
from dpo_lab.training.history import History
from dpo_lab.training.run_job import StoppedBeforeTraining, run_job
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import check_settings
from dpo_lab.training.workers import run_all

logger = logging.getLogger(__name__)

MEASURED = ("rewards/margins", "eval/rewards/accuracies", "eval/logratios/chosen")
MEASURED += ("kl/per_token", "kl/per_token_stderr", "kl/cut", "score/policy", "score/policy_stderr")
MEASURED += ("listed/kl", "listed/score", "listed/beyond")
"""Metrics in the table of runs: the last value of each."""

Engine = Literal["local", "ray"]
SNAPSHOT = "references.sqlite"
"""File in a sweep's folder of the reference values that runs on other machines read."""

Done = Callable[[str, int, int], None]
"""Called with the name of a finished run, how many runs are finished, and how many there are."""


Going = Callable[[dict[str, dict[str, Any]]], None]
"""Called with the last sign of life of each run in progress, by its name: `step`, `total_steps`,
`doing`; nothing of a run that is being prepared."""


class SweepFailed(RuntimeError):
    """Some runs of a sweep have failed; the others are done.

    Attributes:
        failures: Error messages by the name of the run.
        rows: The table of the runs that are done.
    """

    def __init__(self, failures: Mapping[str, str], rows: list[dict[str, Any]]):
        super().__init__(failures, rows)
        self.failures, self.rows = dict(failures), rows

    def __str__(self) -> str:
        reasons = "; ".join(f"{name}: {why}" for name, why in self.failures.items())
        count = len(self.failures)
        return f"{count} {'run' if count == 1 else 'runs'} failed: {reasons}"


def grid(base: TrainConfig, values: Mapping[str, Sequence[Any]]) -> dict[str, TrainConfig]:
    """Every combination of settings, keyed by a name such as `beta=0.1,seed=0`.

    Args:
        base: All other settings.
        values: The settings that vary, each with its values.

    Raises:
        ValueError: If nothing varies, a setting is unknown, or a value is given twice.
    """
    known = {field.name for field in fields(TrainConfig)}
    varied = {name: list(options) for name, options in values.items()}
    for name, options in varied.items():
        if name not in known:
            raise ValueError(f"{name}: no such setting. See 'dpo-lab train --help'.")
        if not options or len(set(map(str, options))) < len(options):
            raise ValueError(f"{name}={options}: give one or more different values.")
    if not varied:
        raise ValueError("nothing varies: give at least one setting several values.")
    configs = {}
    for combination in product(*varied.values()):
        settings = dict(zip(varied, combination, strict=True))
        name = ",".join(f"{key}={_shown(value)}" for key, value in settings.items())
        if name in configs:
            raise ValueError(
                f"{name}: two combinations would have this folder. Use values that differ more."
            )
        configs[name] = replace(base, **settings)
    return configs


def sweep(
    configs: Mapping[str, TrainConfig],
    folder: Path,
    *,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    gpus_per_run: float = 0,
    done: Done | None = None,
    going: Going | None = None,
) -> list[dict[str, Any]]:
    """Run every configuration that is not finished, several at a time, each in its own folder.

    After a kill, call it again: finished runs are skipped, the others resume at their last
    checkpoint. Before the first run, the reference scores every pair that any run uses, so no run
    has to. A signal, an error or the death of this process ends the running runs within seconds,
    with a checkpoint of the last step if it can be written in that time, else with the previous
    one. A chat template that writes the date gets the same date in all runs, that of their start.

    Args:
        configs: Configurations by the name of the run.
        folder: Parent of the runs' folders.
        workers: Number of local processes; by default one per core on the CPU, else one.
        engine: `local` processes, or tasks of a `ray` cluster; then the folder must be one that all
            its machines see, and a run whose machine is lost resumes on another.
        address: Of the Ray cluster: `auto`, or `host:port`; by default one is started here.
        gpus_per_run: GPUs that Ray keeps for each run.
        done: Called for every finished run, including those finished by earlier calls.
        going: Called about once a second with the last sign of life of each run in progress.

    Returns:
        The table, one row per run in the order of the configurations.

    Raises:
        FileExistsError: If the folder of a run has other files in it.
        ValueError: If an existing run has other settings, `workers` is less than 1, an option
            belongs to the other engine, or there is no such cluster.
        SweepFailed: If some runs fail, after all others are done.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1, or left out.")
    if engine == "ray" and workers is not None:
        raise ValueError("workers: Ray runs as many at a time as its machines have cores or GPUs.")
    if engine == "local" and (address or gpus_per_run):
        raise ValueError("address, gpus_per_run: belong to engine ray.")
    for name, config in configs.items():
        run = Run(folder / name)
        check_settings(run, config)
        if not run.exists:
            run.check_free()
    unfinished = [name for name in configs if not Run(folder / name).finished]
    count = len(configs) - len(unfinished)
    for name in configs.keys() - set(unfinished):
        if done:
            done(name, count, len(configs))
    if unfinished:
        dated = _dated(configs, folder)
        to_run = {name: dated[name] for name in unfinished}

        def one_more(name: str) -> None:
            nonlocal count
            count += 1
            if done:
                done(name, count, len(configs))

        def tick(names: list[str]) -> None:
            beats = {name: last_beat(folder / name) for name in names}
            if going:  # of tasks that have not begun Ray knows no more than that
                going({name: beat for name, beat in beats.items() if beat or engine == "local"})

        calls = {name: (config, folder / name) for name, config in to_run.items()}
        if engine == "ray":
            with cluster.connected(address, gpus_per_run):
                failures = cluster.run_all(
                    calls, _score_references, folder / SNAPSHOT, gpus_per_run, one_more, tick
                )
        else:
            _score_references(to_run.values())
            workers = min(workers or _processes(to_run.values()), len(unfinished))
            begin = f"{__name__}:begin_worker", max(1, (os.cpu_count() or 1) // workers)
            failures = run_all(f"{__name__}:run_one", calls, workers, begin, one_more, tick)
        if failures:
            raise SweepFailed(failures, table(configs, folder))
    return table(configs, folder)


def _dated(configs: Mapping[str, TrainConfig], folder: Path) -> dict[str, TrainConfig]:
    """The configurations with the date for a chat template: the run's own, else the sweep's."""
    runs = {name: Run(folder / name) for name in configs}
    kept = {name: run.config.template_date for name, run in runs.items() if run.exists}
    day = next(filter(None, kept.values()), date.today().isoformat())
    return {
        name: replace(config, template_date=config.template_date or kept.get(name) or day)
        for name, config in configs.items()
    }


def _processes(configs: Iterable[TrainConfig]) -> int:
    """Number of processes: one per core if all runs use the CPU, else one."""
    devices = {resolve_device(config.device).type for config in configs}
    return os.cpu_count() or 1 if devices == {"cpu"} else 1


def run_one(config: TrainConfig, path: Path, stopped: threading.Event) -> None:
    """Start or resume one run of a sweep, and measure its outcome.

    Args:
        config: Its settings.
        path: Its folder.
        stopped: Setting it ends the run after the current step, with a checkpoint.
    """
    with suppress(StoppedBeforeTraining):
        run_job(config, path, control=RunControl(stopped))


def table(configs: Mapping[str, TrainConfig], folder: Path) -> list[dict[str, Any]]:
    """One row per finished run: its name, the settings that vary, its last measured numbers.

    `score`, `score_low` and `score_high` are from the outcome: the mean score of answers to
    held-out prompts and its 95 % interval, as in `dpo-lab train`.
    """
    settings = [config.as_dict() for config in configs.values()]
    varied = [key for key in settings[0] if len({str(values[key]) for values in settings}) > 1]
    rows = []
    for name, config in configs.items():
        run = Run(folder / name)
        if not run.finished:
            continue
        records, outcome = _history(run), run.summary.get("outcome") or {}
        after = outcome.get("after", {})
        row = {"run": name} | {key: getattr(config, key) for key in varied}
        # Not named "loss", which is a setting.
        row |= {key: records.last(key) for key in MEASURED} | {"last_loss": records.last("loss")}
        row |= {"score": after.get("mean"), "score_low": after.get("low")}
        rows.append(row | {"score_high": after.get("high")})
    return rows


def _history(run: Run) -> History:
    """The run's records; empty, with a warning, if its folder was changed."""
    try:
        return History(run.records())
    except (ValueError, OSError) as error:
        logger.warning("%s: its numbers are left out of the table. %s", run.path.name, error)
        return History()


def begin_worker(threads: int) -> None:
    """Called first in each process: sets its share of the cores."""
    torch.set_num_threads(threads)


def _score_references(configs: Iterable[TrainConfig], cache: ReferenceCache | None = None) -> None:
    """Fill the cache, by default the lab's, with every value that the runs will ask for."""
    scored = set()
    for config in configs:
        # Only these settings decide which values are needed; adapters come after scoring.
        plain = TrainConfig(
            **{
                name: getattr(config, name)
                for name in (
                    "model", "data", "split", "held_out", "steps", "epochs", "batch_pairs", "seed",
                    "max_length", "max_prompt_length", "prompt_format", "chat_template",
                    "score_turns", "thinking", "template_date", "on_bad_rows", "columns",
                    "limit", "max_gz_gb", "eval_pairs", "ld_alpha", "device", "precision",
                    "revision",
                    "trust_remote_code",
                )
            }
        )  # fmt: skip
        if config.on_policy:  # whose steps score their own answers: the held-out pairs alone
            plain = replace(plain, steps=1, epochs=None, batch_pairs=1)
        if str(plain) not in scored:
            scored.add(str(plain))
            builtin_model(plain.model)
            model = load_model(
                plain.model,
                device=plain.device,
                revision=plain.revision,
                trust_remote_code=plain.trust_remote_code,
            )
            prepare(plain, model=model, keep_reference=False, cache=cache)


def _shown(value: Any) -> str:
    """A value as part of a folder's name."""
    return as_file_name(f"{value:g}" if isinstance(value, float) else str(value))
