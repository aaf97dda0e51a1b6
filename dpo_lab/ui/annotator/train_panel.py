"""Training panel of the annotator: a Train button, progress, and answers before and after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpo_lab.annotation.question_queue import QuestionQueue
from dpo_lab.data.builtin import RewardFn
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.background import BackgroundRun
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.files import json_lines, write_text
from dpo_lab.training.job import Job
from dpo_lab.training.run_folders import give_back, new_folder
from dpo_lab.training.setup import load_data, tokenize
from dpo_lab.ui.html.run_status import numbers, share_done, status
from dpo_lab.ui.html.tables import escaped, number, samples_table
from dpo_lab.ui.widgets.live import Ticker
from dpo_lab.ui.workbench.layout import style

MICRO_BETA = 0.3
ANNOTATED = "annotated prompt"
"""Kind of the prompts that are evaluated: those of the pairs, none of which is held out."""
SHOWN = 12
"""Maximum number of prompts whose answers are shown."""


class TrainPanel:
    """Trains on the pairs of a session, and shows what that changed.

    Args:
        interview: Queue of the prompts and the session; it samples nothing during a run.
        model: The model to train: a name, or a model already loaded (a copy is trained).
        reward_fn: Reward of `(prompt, response)`, if there is one.
        max_new_tokens: Maximum tokens of an answer; none is the model's default.
        ended: Called with a message when a run has ended.

    Attributes:
        run: The run in progress, or the last one.
        view: Buttons, progress and the answers before and after.
    """

    def __init__(
        self,
        interview: QuestionQueue,
        model: str | LanguageModel,
        reward_fn: RewardFn | None,
        max_new_tokens: int | None,
        ended: Callable[[str], None],
    ):
        self._interview, self._model, self._reward_fn = interview, model, reward_fn
        self._max_new_tokens, self._ended = max_new_tokens, ended
        self._lock = threading.RLock()
        self.run: BackgroundRun | None = None
        self._asked_of: BackgroundRun | None = None
        self._closed = ""
        self.train_button = widgets.Button(
            description="Train", tooltip="Align the model on the pairs so far"
        ).add_class("dpo-train")
        self.train_button.button_style = "primary"
        self.stop_button = widgets.Button(
            description="Stop", tooltip="End the run after the step in progress", disabled=True
        ).add_class("dpo-stop")
        self.progress = widgets.FloatProgress(min=0, max=1).add_class("dpo-progress")
        self.numbers = widgets.HTML().add_class("dpo-numbers")
        self.status = widgets.HTML("idle").add_class("dpo-status")
        self.samples = widgets.HTML().add_class("dpo-samples")
        self.train_button.on_click(self._clicked)
        self.stop_button.on_click(lambda _: self.stop())
        line = [self.train_button, self.stop_button, self.progress, self.numbers, self.status]
        self.style = style()
        self.view = widgets.VBox([widgets.HBox(line).add_class("dpo-bar"), self.samples])

    def train(self, **changes: Any) -> BackgroundRun:
        """Start a run from the model that gave the answers; returns at once.

        Args:
            **changes: Fields of `TrainConfig`.

        Raises:
            RuntimeError: If a run is in progress.
            ValueError: If a setting is invalid, or there is no pair yet.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(self._closed)
            if self.run and self.run.running:
                raise RuntimeError("a run is going on: stop it, or wait for it.")
            config, folder = self._config(changes)
            run = BackgroundRun(
                config,
                model=self._loaded,
                reward_fn=self._reward_fn,
                folder=folder,
                on_prepared=self._ask_the_prompts,
            )
            # The run copies the model and samples from the copies: no other draw meanwhile.
            self._interview.rest()
            ticker = Ticker(self._show)
            run.followers.append(ticker)
            self.run = run
            ticker.start()
            return run.start()

    def stop(self) -> None:
        """End the run after the step in progress."""
        if self.run:
            self.run.stop()

    def close(self, words: str) -> None:
        """Stop the run and disable the buttons."""
        with self._lock:
            self._closed = words
        if self.run:
            self.run.end()
        self.train_button.disabled = self.stop_button.disabled = True
        self.status.value = escaped(words)

    @property
    def _loaded(self) -> LanguageModel | None:
        """The model, or none while it is still loading: then the run loads it by its name."""
        passed = self._model if isinstance(self._model, LanguageModel) else None
        return self._interview.model or passed

    def _config(self, changes: dict[str, Any]) -> tuple[TrainConfig, Path]:
        """Configuration and folder of a run on the current pairs."""
        session, model = self._interview.session, self._model
        rows = session.pairs
        if not rows:
            raise ValueError(
                f"{session.file}: there is no pair yet, and ties train nothing. Say of some "
                "answer that it is better, then train."
            )
        name = model if isinstance(model, str) else model.name
        defaults: dict[str, Any] = {
            "model": name,
            "data": str(session.file),
            "held_out": 0.0,
            "max_new_tokens": self._max_new_tokens,
            "sample_prompts": SHOWN,
        }
        if name == "micro":
            defaults["beta"] = MICRO_BETA
        config = TrainConfig(**defaults | changes)
        folder = new_folder(config, session.path / "runs")
        if "data" in changes:
            return config, folder
        # Clicks change the session's file, but a resumed run needs the pairs that it started with.
        kept = folder.with_name(f"{folder.name}.jsonl")
        kept.parent.mkdir(exist_ok=True)
        write_text(kept, json_lines(rows))
        config = replace(config, data=str(kept))
        try:
            pairs = self._can_be_used(config)
        except BaseException:
            kept.unlink()
            give_back(folder)
            raise
        if "batch_pairs" not in changes:
            config = replace(config, batch_pairs=min(16, pairs))
        if name == "micro" and not {"steps", "epochs"} & set(changes):
            # Few pairs are soon memorised; further steps only drift away from the reference.
            config = replace(config, steps=min(60, 10 + 2 * pairs))
        return config, folder

    def _can_be_used(self, config: TrainConfig) -> int:
        """Number of pairs to train on; before the model is loaded, of those that can be read."""
        train, _ = load_data(config)
        return len(tokenize(config, train, self._loaded.tokenizer) if self._loaded else train)

    def _ask_the_prompts(self, job: Job) -> None:
        """Evaluate on the annotator's own prompts: answers, KL and score."""
        if not job.prompts:
            job.prompts = job.policy.encoder.as_prompts(
                self._interview.prompts, job.config.prompt_format
            )
            job.prompt_kind = ANNOTATED

    def _clicked(self, _) -> None:
        try:
            self.train()
        except Exception as error:  # a callback's error would be lost
            self.status.value = escaped(error)

    def _show(self) -> None:
        """The drawing thread's work."""
        run = self.run
        if not run.running:
            if run is not self._asked_of and run.state in ("done", "stopped") and run.job:
                self._asked_of, policy = run, run.job.policy
                self._interview.ask_of(lambda: policy, run.folder.name if run.folder else "policy")
            self._interview.go_on()
        self.train_button.disabled = run.running
        self.stop_button.disabled = not run.running
        self.progress.value = share_done(run)
        self.numbers.value = escaped(numbers(run))
        self.status.value = escaped(status(run, run.error))
        if run.samples:
            shown = self._change(run)
            if self.samples.value != shown:
                self.samples.value = shown
        if not run.running:
            self._ended(f"Training: {status(run, run.error)}.")

    def _change(self, run: BackgroundRun) -> str:
        """Answers before and after, as HTML."""
        step = run.samples[0].step
        words = f"Greedy answers to {len(run.samples)} of your prompts, before and after step "
        pairs = len(run.job.train)
        words += f"{step:,} on {pairs} pair{'' if pairs == 1 else 's'}."
        if (kl := run.records.last("kl/per_token")) is not None:
            cut = run.records.last("kl/cut")
            words += f" KL(policy ‖ reference) {'at least ' * bool(cut)}{number(kl)} nats"
            words += f" ({cut:.0%} of the answers cut)." if cut else "."
        before, after = (run.records.last(f"score/{who}") for who in ("reference", "policy"))
        if before is not None and after is not None:
            words += f" Mean score of sampled answers {number(before)} → {number(after)}."
        return f"<h3>Before and after</h3><p class='note'>{words}</p>{samples_table(run.samples)}"
