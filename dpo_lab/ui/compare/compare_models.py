"""Two models compared in a folder: answers drawn, judges asked, neutral text scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpo_lab.analysis.forgetting import TextChange, TextLogps, text_change, text_logps
from dpo_lab.annotation.blind import Judge, blind_questions, judge_all
from dpo_lab.annotation.endpoint_judge import EndpointJudge
from dpo_lab.annotation.side_answers import AnswerPair, Sampling, SideAnswers, answer_pairs
from dpo_lab.annotation.verdict_session import folder_of, kept_verdicts, open_verdicts
from dpo_lab.data.pairs import Text
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.files import write_json
from dpo_lab.training.job import Progress, naming
from dpo_lab.training.runs import Run
from dpo_lab.ui.compare.page import write_page
from dpo_lab.ui.compare.result import ComparisonResult
from dpo_lab.ui.compare.sides import Side, names_of, sides_of

NOT_MEASURED = "Forgetting is not measured"


@dataclass(frozen=True)
class JudgeSetup:
    """A judge, and how it is asked.

    Attributes:
        judge: Says which side of a question is better.
        facts: What its verdicts depend on, as plain values; nothing secret.
        orders: 2 shows every pair in both orders; 1 in one.
        sees_order: Whether it could prefer a side; a reward cannot.
        workers: Questions asked at the same time.

    Raises:
        ValueError: If orders is neither 1 nor 2, or there are no workers.
    """

    judge: Judge
    facts: Mapping[str, Any] = field(default_factory=dict)
    orders: int = 2
    sees_order: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        if self.orders not in (1, 2) or self.workers < 1:
            raise ValueError(
                f"orders={self.orders}, workers={self.workers}: must be 1 or 2, and at least 1."
            )


def compare_models(
    a: AnyModel | Run | Side,
    b: AnyModel | Run | Side | None = None,
    prompts: Sequence[Text] | None = None,
    judges: Mapping[str, JudgeSetup] | None = None,
    *,
    folder: str | Path | None = None,
    sampling: Sampling | None = None,
    neutral: Sequence[str] = (),
    progress: Progress | None = None,
) -> ComparisonResult:
    """Compare two models; the same call on the same folder goes on where it was.

    Verdicts of other judges that lie in the folder, such as a person's, are part of the result.
    The models are loaded one after the other, and each is dropped before the next. B's draws have
    another seed than A's, so that sampled answers are independent.

    Args:
        a: The model that may be better: a run or its folder (its policy), or a model in any form.
        b: The model to compare with; by default the reference of run a.
        prompts: Texts, or lists of messages; by default the held-out prompts of run a.
        judges: By their names; none only draws the answers.
        folder: Gets `a.jsonl`, `b.jsonl`, the verdicts in `judges/`, `result.json` and
            `report.html`; by default in the folder of run a.
        sampling: How both answer; by default greedily, within the limit of run a.
        neutral: Passages whose log-likelihood is compared; none measures nothing.
        progress: Called with the current work, how much is done, and the total.

    Raises:
        FileExistsError: If the folder holds another comparison.
        JudgeError: If an endpoint fails; the verdicts so far are kept.
        ValueError: If there is nothing to compare with, or no prompt.
    """
    first, second = sides_of(a, b)
    names, folder = names_of(first, second), Path(folder or first.folder(second))
    sampling = sampling or first.sampling()
    prompts = first.prompts() if prompts is None else list(prompts)
    if not prompts:
        raise ValueError("prompts: empty. Give at least one.")
    sides, texts = _draw(folder, names, (first, second), prompts, sampling, neutral, progress)
    pairs = answer_pairs(*sides)
    notes = [note for side in sides for note in side.notes]
    for name, setup in (judges or {}).items():
        notes += _ask(
            folder, name, setup, pairs, sampling.seed, naming(progress, f"verdicts of {name}")
        )
    kept, open_elsewhere = kept_verdicts(folder)
    asked = list(judges or ())
    kept.sort(key=lambda one: asked.index(one.judge) if one.judge in asked else len(asked))
    if all(pair.same for pair in pairs):
        notes.append("Both models give the same answers, so there is nothing to judge.")
    change, why = _change(*texts)
    result = ComparisonResult.of(
        names,
        pairs,
        {one.judge: one.answers for one in kept},
        orderless=[one.judge for one in kept if not one.sees_order],
        forgetting=change,
        notes=[*notes, *open_elsewhere, *([why] if why else [])],
    )
    write_json(folder / "result.json", result.as_dict())
    write_page(folder / "report.html", result, f"{names[0]} against {names[1]}")
    return result


def _draw(
    folder: Path,
    names: tuple[str, str],
    models: tuple[Side, Side],
    prompts: Sequence[Text],
    sampling: Sampling,
    neutral: Sequence[str],
    progress: Progress | None,
) -> tuple[list[SideAnswers], list[TextLogps | str]]:
    """Answers of both models, and their log-probabilities of neutral text, one after the other."""
    sides, texts = [], []
    ways = (sampling, sampling.of_b())
    for letter, name, model, how in zip("ab", names, models, ways, strict=True):
        loaded = model.load()
        side = SideAnswers(folder / f"{letter}.jsonl", loaded, prompts, how)
        sides.append(side.draw(naming(progress, f"answers of {name}")))
        texts.append(_text(loaded, neutral))
        del loaded
        side.release()
    return sides, texts


def _ask(
    folder: Path,
    name: str,
    setup: JudgeSetup,
    pairs: Sequence[AnswerPair],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Have a judge answer all questions; notes on replies without a verdict."""
    judge, questions = setup.judge, blind_questions(pairs, seed, setup.orders)
    session = open_verdicts(folder, name, {**setup.facts, "sees_order": setup.sees_order})
    if isinstance(judge, EndpointJudge):
        judge.replies = folder_of(folder, name) / "replies.jsonl"
    try:
        judge_all(session, questions, judge, workers=setup.workers, progress=progress)
    finally:
        session.close()
    if isinstance(judge, EndpointJudge) and judge.malformed:
        return [f"A reply of {name} without a verdict ends: {judge.malformed[0]!r}."]
    return []


def _text(model: LanguageModel, passages: Sequence[str]) -> TextLogps | str:
    """Log-probabilities of passages, or why there are none; nothing if none were asked for."""
    if not passages:
        return ""
    try:
        return text_logps(model, passages)
    except ValueError as error:
        return f"{NOT_MEASURED}: {error}"


def _change(a: TextLogps | str, b: TextLogps | str) -> tuple[TextChange | None, str]:
    if isinstance(a, str) or isinstance(b, str):
        return None, a if isinstance(a, str) else str(b)
    try:
        return text_change(a, b), ""
    except ValueError as error:
        return None, f"{NOT_MEASURED}: {error}"
