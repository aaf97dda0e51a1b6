"""The command that prints log-probabilities of pairs: `logps`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, print_rows, say
from dpo_lab.data.pairs import PromptFormat, ScoreTurns
from dpo_lab.data.problems import ON_BAD_ROWS, OnBadRows
from dpo_lab.data.readers import MAX_GZ_GB
from dpo_lab.data.thinking import Thinking


@dataclass(frozen=True)
class Logps:
    """Log-probabilities of the chosen and rejected responses under a model."""

    model: str = "micro"
    """micro, smollm2, a folder (a run's checkpoint too) or a hub id."""
    data: str = "reviews"
    """Preference pairs, as for train."""
    split: str = "train"
    """Split of the data."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names in the data of the columns prompt, chosen, rejected, where they differ: prompt question
    chosen good ..."""
    limit: Annotated[int | None, SAID] = None
    """Only the first so many pairs, by default all."""
    max_gz_gb: float = MAX_GZ_GB
    """Most GB that a .gz file may unpack to."""
    max_length: int = 512
    """Most tokens of prompt and response together."""
    prompt_format: PromptFormat = "auto"
    """How prompts of text are given to the model, as for train: auto, chat or plain."""
    score_turns: ScoreTurns = "all"
    """Which of the assistant's messages after the prompt are scored: all, or the last."""
    thinking: Thinking = "keep"
    """What becomes of thinking in answers, as for train: keep, strip or empty."""
    chat_template: Annotated[str | None, SAID] = None
    """A file of Jinja to write conversations by, instead of the model's own chat template."""
    on_bad_rows: OnBadRows = ON_BAD_ROWS
    """skip leaves out rows that cannot be used, counts and reports them; raise stops there."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trust_remote_code: Flag = False
    """Run code that comes with the model."""
    json: Flag = False
    """One JSON object a pair, a line each, instead of a table."""

    def __call__(self) -> None:
        """Print one line a pair."""
        from dpo_lab.cli.terminal import TerminalDisplay
        from dpo_lab.data.preferences import load_preferences
        from dpo_lab.data.template_files import template_text
        from dpo_lab.data.token_ids import count_scored
        from dpo_lab.models.loading import load_model
        from dpo_lab.models.logps import logps
        from dpo_lab.training.job import naming

        pairs = load_preferences(
            self.data,
            self.split,
            columns=self.columns,
            on_bad_rows=self.on_bad_rows,
            limit=self.limit,
            max_gz_gb=self.max_gz_gb,
        )
        model = load_model(self.model, device=self.device, trust_remote_code=self.trust_remote_code)
        text = self.chat_template and template_text(self.chat_template)
        model.use_template(text, thinking=self.thinking)
        found = logps(
            model,
            pairs,
            max_length=self.max_length,
            prompt_format=self.prompt_format,
            score_turns=self.score_turns,
            on_bad_rows=self.on_bad_rows,
            precision="float32",
            progress=naming(TerminalDisplay(new_console(stderr=True)).on_wait, "responses"),
        )
        say(f"{pairs.report}; {found.tokens}")
        values = zip(found.tokens, found.chosen.tolist(), found.rejected.tolist(), strict=True)
        rows = [
            {
                "index": index,
                "row": pair.row,
                "chosen_logp": chosen,
                "rejected_logp": rejected,
                "chosen_tokens": count_scored(pair.chosen),
                "rejected_tokens": count_scored(pair.rejected),
            }
            for index, (pair, chosen, rejected) in enumerate(values)
        ]
        print_rows(rows, self.json)
