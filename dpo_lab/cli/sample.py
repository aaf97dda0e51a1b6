"""The command that lets a model answer: `sample`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import print_rows
from dpo_lab.data.pairs import PromptFormat


@dataclass(frozen=True)
class Sample:
    """Answers of a model, and of a run's policy beside it."""

    prompt: tuple[str, ...]
    """One or more prompts."""
    model: Annotated[str | None, SAID] = None
    """The model that answers; by default micro, or with --run the run's reference."""
    run: Annotated[Path | None, SAID] = None
    """A run whose policy answers too."""
    temperature: float = 0.0
    """0 is greedy, 1 draws from the model itself."""
    max_new_tokens: Annotated[int | None, SAID] = None
    """Most tokens of an answer; by default as in the run, or else 48 for micro, 192 for others."""
    seed: int = 0
    """Seed of the draw."""
    prompt_format: Annotated[PromptFormat | None, SAID] = None
    """How the prompt is given to the model, as for train: auto, chat or plain; by default as in the
    run, or else auto."""
    chat_template: Annotated[str | None, SAID] = None
    """A file of Jinja to write conversations by, instead of the run's or the model's own chat
    template."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trust_remote_code: Flag = False
    """Run code that comes with the model; a run's folder cannot say so."""
    json: Flag = False
    """One JSON object a prompt, a line each, instead of a table."""

    def __call__(self) -> None:
        """Print one line a prompt."""
        from functools import partial

        from dpo_lab.data.sampled import shown
        from dpo_lab.data.template_files import template_text
        from dpo_lab.models.loading import load_model
        from dpo_lab.models.sampling import sample
        from dpo_lab.training.config import TrainConfig
        from dpo_lab.training.run_models import policy_of, reference_of
        from dpo_lab.training.runs import Run

        if not self.prompt or not all(prompt.strip() for prompt in self.prompt):
            raise ValueError("--prompt: empty. Give the text that the model is to answer.")
        how = {"device": self.device, "trust_remote_code": self.trust_remote_code}
        config, named = TrainConfig(), partial(load_model, self.model or "micro", **how)
        models = {"answer": named}
        if self.run is not None:
            run = Run.open(self.run)
            if run.checkpoint is None:
                raise FileNotFoundError(f"{self.run}: this run has no checkpoint yet.")
            config, own = run.config, partial(reference_of, run, **how)
            models = {"reference": named if self.model else own}
            models["policy"] = partial(policy_of, run, **how)
        template = template_text(self.chat_template) if self.chat_template else config.chat_template
        # Both answer within the same, which a checkpoint's name would not tell.
        limit = config.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        rows = [{"prompt": prompt} for prompt in self.prompt]
        for who, load in models.items():
            model = load()
            model.use_template(template, config.template_date, config.thinking)
            texts = model.encoder.as_prompts(
                self.prompt, self.prompt_format or config.prompt_format
            )
            answers = sample(
                model,
                model.encoder.prompts(texts),
                max_new_tokens=limit,
                temperature=self.temperature,
                seed=self.seed,
            )
            for row, answer in zip(rows, answers, strict=True):
                row[who] = answer.text if self.json else shown(answer.text, not answer.ended)
                if self.json:
                    row[f"{who}_cut"] = not answer.ended
        print_rows(rows, self.json)
