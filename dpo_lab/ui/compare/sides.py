"""What a comparison compares: runs or models, given by name, by folder or loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dpo_lab.annotation.side_answers import Sampling
from dpo_lab.data.pairs import Text
from dpo_lab.models.handed_over import AnyModel, as_language_model
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import new_tokens
from dpo_lab.training.files import as_file_name
from dpo_lab.training.run_models import policy_of, reference_of
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import load_data


@dataclass(frozen=True)
class Side:
    """A model to compare.

    Attributes:
        name: For people.
        load: Loads it.
        run: The run that it is the policy of, if it is one.
    """

    name: str
    load: Callable[[], LanguageModel]
    run: Run | None = None

    @classmethod
    def of(cls, model: AnyModel | Run) -> Side:
        """A run's policy, by the run or its folder; or a model in any form.

        Raises:
            FileNotFoundError: If a run has no checkpoint.
            TypeError: If it is neither.
        """
        if isinstance(model, str | Path) and is_run(Path(model)):
            model = Run.open(model)
        if isinstance(model, Run):
            return cls(model.path.resolve().name, partial(policy_of, model), model)
        name = str(model) if isinstance(model, str | Path) else as_language_model(model).name
        return cls(name, partial(as_language_model, model))

    def reference(self) -> Side:
        """The model that its run started from.

        Raises:
            ValueError: If it is no run's.
        """
        if self.run is None:
            raise ValueError(f"{self.name}: is no run, so it has no reference. Give a model b.")
        return Side("reference", partial(reference_of, self.run))

    def prompts(self) -> Sequence[Text]:
        """The held-out prompts of its run.

        Raises:
            ValueError: If it is no run's, or the run holds nothing out.
        """
        found = load_data(self.run.config)[1].prompts if self.run else []
        if not found:
            raise ValueError(f"{self.name}: has no held-out prompts. Give prompts of your own.")
        return found

    def sampling(self, max_new_tokens: int | None = None, seed: int = 0) -> Sampling:
        """Greedy answers within the limit of its run, or of its model."""
        config = self.run.config if self.run else None
        limit = max_new_tokens or (config and config.max_new_tokens)
        limit = limit or new_tokens(config.model if config else self.name)
        shape = config.prompt_format if config else "auto"
        return Sampling(limit, seed=seed, prompt_format=shape)

    def folder(self, other: Side) -> Path:
        """Where its comparison with another lies by default: in its run, or here."""
        root = self.run.path / "compare" if self.run else Path("compare")
        return root / as_file_name(other.name)


def sides_of(a: AnyModel | Run | Side, b: AnyModel | Run | Side | None) -> tuple[Side, Side]:
    """Both sides of a comparison; without b, the reference of run a.

    Raises:
        ValueError: If a is no run and there is no b.
    """
    first = a if isinstance(a, Side) else Side.of(a)
    if b is None:
        return first, first.reference()
    return first, b if isinstance(b, Side) else Side.of(b)


def names_of(a: Side, b: Side) -> tuple[str, str]:
    """Their names, told apart where they are the same."""
    if a.name != b.name:
        return a.name, b.name
    return f"{a.name} (A)", f"{b.name} (B)"


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, and no model's."""
    return Run(path).exists and (path / "environment.json").exists()
