"""What the comparison of an export with its policy found, as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.analysis.agreement import Agreement

CHECK_COLUMNS = (
    "loaded", "KL per token (nats)", "KL per answer (nats)", "difference of a token (nats)",
    "greedy answers that differ",
)  # fmt: skip


def check_rows(agreements: Sequence[Agreement]) -> list[dict[str, str]]:
    """Rows of the table of the check, for the terminal and the card."""
    rows = []
    for one in agreements:
        differ = f"{one.greedy_differ:.0%} of {one.greedy}"
        if one.first_difference is not None:
            differ += f", from token {one.first_difference:g} on (median)"
        cells = (
            one.loaded,
            f"{short(one.kl_per_token)} ± {short(one.kl_per_token_stderr)}",
            f"{short(one.kl_per_answer)} ± {short(one.kl_per_answer_stderr)}",
            f"mean {short(one.mean_difference)}, largest {short(one.largest)}",
            differ,
        )
        rows.append(dict(zip(CHECK_COLUMNS, cells, strict=True)))
    return rows


def short(value: float) -> str:
    """A number of nats in two digits."""
    return f"{value:.2g}" if abs(value) >= 1e-4 or not value else f"{value:.1e}"


def check_words(agreements: Sequence[Agreement], probes: str, moved: float | None) -> str:
    """What the check found, in words and a table.

    Args:
        agreements: How the exported folder compares with the policy.
        probes: On what, in words.
        moved: How far training moved the policy from its reference, nats an answer, for scale.
    """
    if not agreements:
        return "Not checked: the exported folder was not loaded again."
    first = agreements[0]
    rows = check_rows(agreements)
    lines = [f"| {' | '.join(CHECK_COLUMNS)} |", "|---" * len(CHECK_COLUMNS) + "|"]
    lines += [f"| {' | '.join(map(cell, row.values()))} |" for row in rows]
    cut = f" {first.cut:.0%} of them were cut at their length limit." if first.cut else ""
    scale = ""
    if moved:
        scale = f"\n\nFor scale: training moved the policy {moved:.3g} nats an answer from its "
        scale += "reference, KL(policy || reference) on its own samples."
    return (
        "This folder was loaded again by plain `transformers` and compared with the policy of the "
        f"run's checkpoint, on {first.answers} answers ({first.tokens} tokens) that the policy "
        f"sampled to {probes}, and on {first.greedy} greedy ones.{cut} KL is "
        "KL(policy || this folder), exact over the vocabulary at each token, ± 1 standard error "
        "for prompts like these; a difference is that of a sampled token's log-probability, either "
        "way.\n\n" + "\n".join(lines) + scale
    )


def cell(text: str) -> str:
    """A text as it stands in a cell of a table in Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|")
