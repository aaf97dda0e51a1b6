"""The tokens of a pair as coloured text: what is read, what is scored, what was cut.

The look is written into each element, in see-through tints and the page's own text colour: so it
reads on a light and on a dark page, and stays in a notebook that is not trusted yet, from which
JupyterLab takes style sheets away. Whatever a colour says is said in words, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Literal

from dpo_lab.analysis.token_report import SIDES, PairTokens, Token
from dpo_lab.ui.figures.style import AXIS, CHOSEN, GRID, POLICY, REFERENCE, REJECTED, THEORY, tint
from dpo_lab.ui.html.tables import AS_IT_IS, render, table as html_table

Table = Literal["folded", "open", "none"]

SHOWN_OF_PROMPT, SHOWN_OF_CUT = 48, 12
"""Most tokens of a prompt, and of what was cut, that stand open; the others are folded away."""


def tokens_html(pair: PairTokens, *, legend: bool = True, table: Table = "folded") -> str:
    """Both sequences of a pair token by token, as HTML; every text in it is escaped.

    Args:
        pair: The pair's tokens.
        legend: Whether the looks are explained below.
        table: Whether the table that says the same in words is there, and open.

    Returns:
        The prompt once, since both responses continue it, then the two responses, with position
        above and log-probability below each token that has one; what was cut or dropped in words.
    """
    rows = _rows(pair)
    return render(
        "html/token_view.html.jinja",
        pair=pair,
        notices=notices(pair),
        prompt=_prompt(pair),
        sides=[(name, getattr(pair, name), _COLOURS[name]) for name in SIDES],
        legend=_legend(pair) if legend else (),
        table="" if table == "none" else html_table(_TITLES, rows),
        rows=len(rows),
        is_open=table == "open",
        look=_look,
        tip=_tip,
        count=_count,
        nats=_nats,
        shown_of_cut=SHOWN_OF_CUT,
        as_it_is=AS_IT_IS,
        edge=AXIS,
        grey=REFERENCE,
        warning=REJECTED,
    )


def notices(pair: PairTokens) -> list[str]:
    """What the reader must know about cuts and drops, a sentence each."""
    if pair.dropped:
        return [f"Training leaves row {pair.row} out: {pair.dropped}."]
    said = []
    if pair.prompt_cut:
        kept = [token for token in pair.chosen.prompt if not token.cut]
        bos = ", with BOS kept in front" * (kept[0].part == "BOS")
        kept = _count(sum(token.part == "prompt" for token in kept))
        said.append(
            f"The prompt was cut: its beginning, {_count(pair.prompt_cut)}, is never read. "
            f"Its end, {kept}, is{bos}."
        )
    for name in SIDES:
        if lost := sum(token.cut for token in getattr(pair, name).response):
            said.append(
                f"The {name} response was cut: its end, {_count(lost)}, is neither read nor "
                "scored. The end token is lost with it, so it counts as unfinished."
            )
    return said


def _prompt(pair: PairTokens) -> Iterator[tuple[list[Token], int, str]]:
    """Runs of the prompt's tokens, how many stand open of each, and what the run is.

    The last tokens stand open, since there the responses begin.
    """
    tokens = pair.chosen.prompt
    first = len(tokens) - SHOWN_OF_PROMPT
    runs = groupby(enumerate(tokens), lambda one: (one[1].cut, one[0] >= first))
    for (cut, is_open), run in runs:
        some = [token for _, token in run]
        if cut:
            yield some, SHOWN_OF_CUT, "cut from the prompt"
        else:
            yield some, SHOWN_OF_PROMPT if is_open else 1, "of the prompt"


def _look(token: Token, colour: str) -> str:
    """Tint and border of a token, which tell what becomes of it."""
    if token.cut:
        return f"border:1px dashed {AXIS}"
    if token.part == "BOS":
        return f"border:1px dotted {AXIS}"
    if not token.scored:
        back = tint(_ROLES[token.role], 0.28) if token.role else GRID
        return f"border:1px solid transparent;background-color:{back}"
    edge = f"2px solid {colour}" if token.part == "end token" else "1px solid transparent"
    tinted = f"background-color:{tint(colour, 0.25)}"
    return f"border:{edge};border-bottom:2px solid {colour};{tinted}"


def _tip(token: Token) -> str:
    parts = [f"{token.name!r}, id {token.id}"]
    parts += [f"position {token.position}"] * (token.position is not None)
    parts += [f"message of the {token.role}"] * (token.role is not None)
    parts += [f"{token.part}, {token.why}"]
    values = (("log-probability", token.logp), ("by the reference", token.reference_logp))
    parts += [f"{name} {_nats(value)} nats" for name, value in values if value is not None]
    return "\n".join(parts)


def _legend(pair: PairTokens) -> list[tuple[Token, str, str]]:
    """What the looks mean, of those that occur in most pairs, and of the roles in this one."""
    roles = {
        token.role for side in SIDES for token in getattr(pair, side).tokens if not token.scored
    }
    said = [
        (Token(role, "", 0, "context", "", role=role), f"{words}, not scored", REFERENCE)
        for role, words in _WRITTEN_BY.items()
        if role in roles
    ]
    return [*_LEGEND[:1], *(said or _LEGEND[1:2]), *_LEGEND[2:]]


_ROLES = {"system": "#F0E442", "user": THEORY, "tool": "#E69F00", "assistant": POLICY}
_WRITTEN_BY = {
    "system": "the system's message",
    "user": "the user's",
    "tool": "a tool's",
    "assistant": "the assistant's before",
}
_COLOURS = dict(zip(SIDES, (CHOSEN, REJECTED), strict=True))
_LEGEND = (
    (Token("<bos>", "", 0, "BOS", ""), "beginning", REFERENCE),
    (Token("prompt", "", 0, "prompt", ""), "read, not scored", REFERENCE),
    (Token("word", "", 0, "response", "", predicted_by=0), "chosen, scored", CHOSEN),
    (Token("word", "", 0, "response", "", predicted_by=0), "rejected, scored", REJECTED),
    (Token("end", "", 0, "end token", "", predicted_by=0), "end token, scored", CHOSEN),
    (Token("word", "", 0, "prompt", "", cut=True), "cut, never read", REFERENCE),
)
_TITLES = ("position", "token", "id", "part", "predicted by", "log π", "log π_ref", "why")


def _rows(pair: PairTokens) -> list[list[object]]:
    """Every token in words: what the colours and the tips say, for all who do not see them."""
    tokens = [(token, _whose(token)) for token in pair.chosen.prompt]
    for name in SIDES:
        tokens += [(token, f"{name}, {_whose(token)}") for token in getattr(pair, name).response]
    rows = []
    for token, part in tokens:
        values = [token.position, token.text, token.id, part, token.predicted_by]
        values += [None if v is None else _nats(v) for v in (token.logp, token.reference_logp)]
        rows.append([*("–" if value is None else value for value in values), token.why])
    return rows


def _whose(token: Token) -> str:
    return token.part if token.role is None else f"{token.part} ({token.role})"


def _count(tokens: int) -> str:
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def _nats(value: float, digits: int = 4) -> str:
    """A log-probability with a true minus, and no minus in front of zero."""
    return f"{value:z.{digits}f}".replace("-", "−")
