"""Answers of reference and policy side by side, as a table of escaped text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

from dpo_lab.training.records import SampleRecord


def samples_table(samples: Iterable[SampleRecord]) -> str:
    """An HTML table: prompt, reference's answer, policy's answer, and scores where there are any.

    Args:
        samples: A row each.
    """
    samples = list(samples)
    scored = any(s.policy_score is not None or s.reference_score is not None for s in samples)
    head = (
        "<th>Prompt</th><th><i class='reference'></i>Reference</th>"
        "<th><i class='policy'></i>Policy</th>"
    )
    rows = []
    for sample in samples:
        texts = sample.prompt, *sample.shown
        cells = "".join(f"<td dir='auto'>{_answer(text)}</td>" for text in texts)
        if scored:
            before, after = number(sample.reference_score), number(sample.policy_score)
            cells += f"<td class='score'>{before} → <b>{after}</b></td>"
        rows.append(f"<tr>{cells}</tr>")
    head += "<th class='score'>Score</th>" if scored else ""
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f"<table class='samples {AS_IT_IS}'><thead><tr>{head}</tr></thead>{body}</table>"


AS_IT_IS = "mathjax_ignore tex2jax_ignore"
"""Class of an element whose text no page takes for formulas between dollar signs."""


def escaped(value: object) -> str:
    """Any value as text that no page runs, and plotly sets no formula of."""
    return html.escape(str(value)).replace("$", "&#36;")


def number(value: float | None) -> str:
    """Three significant digits with a true minus; a dash for none and for what is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 5e-5:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def _answer(text: str) -> str:
    return escaped(text) if text.strip() else "<em>(empty)</em>"


def compared_answers(runs: Mapping[str, Sequence[SampleRecord]]) -> str:
    """An HTML table: prompt, reference's answer, and the answer of each run's policy.

    Args:
        runs: Samples by the run's label; a prompt that a run has not got stays empty there, and
            so does the reference where the runs' references differ.
    """
    prompts = dict.fromkeys(sample.prompt for samples in runs.values() for sample in samples)
    head = "".join(f"<th>{escaped(label)}</th>" for label in ("Prompt", "Reference", *runs))
    rows = []
    for prompt in prompts:
        found = [next((s for s in some if s.prompt == prompt), None) for some in runs.values()]
        answers = [sample.shown if sample else (None, None) for sample in found]
        references = {before for before, _ in answers if before is not None}
        reference = references.pop() if len(references) == 1 else None
        texts = [prompt, reference, *(after for _, after in answers)]
        cells = "".join(
            f"<td dir='auto'>{'–' if text is None else _answer(text)}</td>" for text in texts
        )
        rows.append(f"<tr>{cells}</tr>")
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f"<table class='samples {AS_IT_IS}'><thead><tr>{head}</tr></thead>{body}</table>"
