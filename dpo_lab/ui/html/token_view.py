"""The tokens of a pair as coloured text: what is read, what is scored, what was cut.

The look is written into each element, in see-through tints and the page's own text colour: so it
reads on a light and on a dark page, and stays in a notebook that is not trusted yet, from which
JupyterLab takes style sheets away. Whatever a colour says is said in words, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from dpo_lab.analysis.token_report import SIDES, PairTokens, Side, Token
from dpo_lab.ui.figures.style import AXIS, CHOSEN, GRID, REFERENCE, REJECTED
from dpo_lab.ui.html.tables import AS_IT_IS, escaped

Table = Literal["folded", "open", "none"]

SHOWN_OF_PROMPT, SHOWN_OF_CUT = 48, 12
"""Most tokens of a prompt, and of what was cut, that stand open; the others are folded away."""

_COLOURS = dict(zip(SIDES, (CHOSEN, REJECTED), strict=True))
_MUTED = "opacity:0.75;font-size:12px"
_CELL = "display:inline-block;margin:2px 1px;padding:1px 5px;border-radius:4px;"
_FLOW = "text-align:center;line-height:1.35"
_TEXT = "display:block;font:14px monospace;white-space:pre"
_NOTE = f"border-left:3px solid {REJECTED};padding:1px 0 1px 8px;margin:4px 0"
_PANEL = f"border:1px solid {AXIS};border-radius:6px;padding:6px 10px 8px;margin:0 0 8px;"


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
    notes = "".join(f"<p style='{_NOTE}'>{escaped(words)}</p>" for words in notices(pair))
    if not pair.chosen.tokens:
        return f"<div class='dpo-tokens {AS_IT_IS}'>{notes}</div>"
    boxes = "".join(_response(pair, name) for name in SIDES)
    grid = "display:grid;grid-template-columns:repeat(auto-fit, minmax(340px, 1fr));gap:0 10px"
    parts = [notes, _prompt(pair), f"<div style='{grid}'>{boxes}</div>"]
    parts += [_legend()] * legend + [_table(pair, table == "open")] * (table != "none")
    style = "line-height:1.5;font-variant-numeric:tabular-nums"
    return f"<div class='dpo-tokens {AS_IT_IS}' style='{style}'>{''.join(parts)}</div>"


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


def _prompt(pair: PairTokens) -> str:
    """The prompt with its last tokens open, since there the responses begin."""
    tokens = pair.chosen.prompt
    read = [token for token in tokens if not token.cut]
    words = f"<b>prompt</b> · {_count(len(read))}"
    if not pair.dropped:
        words += " read, not scored, the same for both"
        words += f" · position {read[-1].position} predicts the first token of both responses"
    first = len(tokens) - SHOWN_OF_PROMPT
    runs = groupby(enumerate(tokens), lambda one: (one[1].cut, one[0] >= first))
    body = ""
    for (cut, open_), run in runs:
        some = [token for _, token in run]
        name, most = ("cut from the prompt", SHOWN_OF_CUT) if cut else ("of the prompt", 1)
        body += _cells(some) if open_ and not cut else _fold(some, most, name)
    return _panel(words, body)


def _response(pair: PairTokens, name: str) -> str:
    side, colour = getattr(pair, name), _COLOURS[name]
    read = [token for token in side.response if not token.cut]
    words = f"<b>{name} response</b> · {_count(len(read))}" + " scored" * (not pair.dropped)
    cut = [token for token in side.response if token.cut]
    body = _cells(read, colour) + _fold(cut, SHOWN_OF_CUT, "cut from the response", colour)
    # A long response scrolls in its box, so that the sums of both stay in view.
    body = f"<div style='max-height:420px;overflow-y:auto'>{body}</div>"
    return _panel(words, body + _sum(side), f"border-left:4px solid {colour}")


def _sum(side: Side) -> str:
    """The sum of the scored tokens, in words."""
    if side.logp is None and side.reference_logp is None:
        return ""
    both = (("log π(y|x)", side.logp), ("reference", side.reference_logp))
    parts = [f"{name} = <b>{_nats(value)}</b>" for name, value in both if value is not None]
    if len(parts) == 2:
        parts.append(f"log-ratio {_nats(side.logp - side.reference_logp)}")
    words = f"sum of {_count(len(side.scored))}, nats: {', '.join(parts)}"
    return f"<div style='{_MUTED};margin-top:2px'>{words}</div>"


def _panel(head: str, body: str, style: str = "") -> str:
    head = f"<div style='font-size:12px;margin-bottom:3px'>{head}</div>"
    return f"<div style='{_PANEL}{style}'>{head}{body}</div>"


def _fold(tokens: Sequence[Token], most: int, words: str, colour: str = REFERENCE) -> str:
    """Tokens that are shown if they are few, else behind their number."""
    if len(tokens) <= most:
        return _cells(tokens, colour)
    words = f"<summary style='cursor:pointer'>{_count(len(tokens))} {words}</summary>"
    return f"<details style='font-size:12px'>{words}{_cells(tokens, colour)}</details>"


def _cells(tokens: Iterable[Token], colour: str = REFERENCE) -> str:
    cells = "\n".join(_cell(token, colour) for token in tokens)
    return f"<span style='{_FLOW}'>{cells}</span>\n"


def _cell(token: Token, colour: str) -> str:
    position = "–" if token.position is None else token.position
    look = _look(token, colour)
    below = "" if token.logp is None else f" {_small(_nats(token.logp, 2))}"
    crossed = ";text-decoration:line-through" if token.cut else ""
    return (
        f"<span style='{_CELL}{look}' title='{escaped(_tip(token))}'>"
        f"{_small(position)} <bdi style='{_TEXT}{crossed}'>{escaped(token.text)}</bdi>"
        f"{below}</span>"
    )


def _small(words: object) -> str:
    return f"<small style='display:block'>{words}</small>"


def _look(token: Token, colour: str) -> str:
    """Tint and border of a token, which tell what becomes of it."""
    if token.cut:
        return f"border:1px dashed {AXIS}"
    if token.part == "BOS":
        return f"border:1px dotted {AXIS}"
    if not token.scored:
        return f"border:1px solid transparent;background-color:{GRID}"
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    edge = f"2px solid {colour}" if token.part == "end token" else "1px solid transparent"
    tint = f"background-color:rgba({red}, {green}, {blue}, 0.25)"
    return f"border:{edge};border-bottom:2px solid {colour};{tint}"


def _tip(token: Token) -> str:
    parts = [f"{token.name!r}, id {token.id}"]
    parts += [f"position {token.position}"] * (token.position is not None)
    parts += [f"{token.part}, {token.why}"]
    values = (("log-probability", token.logp), ("by the reference", token.reference_logp))
    parts += [f"{name} {_nats(value)} nats" for name, value in values if value is not None]
    return "\n".join(parts)


def _legend() -> str:
    """The looks, each beside what it means."""
    prompt = Token("prompt", "", 0, "prompt", "")
    kinds = (
        (Token("<bos>", "", 0, "BOS", ""), "beginning", REFERENCE),
        (prompt, "read, not scored", REFERENCE),
        (Token("word", "", 0, "response", "", predicted_by=0), "chosen, scored", CHOSEN),
        (Token("word", "", 0, "response", "", predicted_by=0), "rejected, scored", REJECTED),
        (Token("end", "", 0, "end token", "", predicted_by=0), "end token, scored", CHOSEN),
        (Token("word", "", 0, "prompt", "", cut=True), "cut, never read", REFERENCE),
    )
    small = "display:inline-block;padding:0 5px;border-radius:4px;font-family:monospace;"
    entries = []
    for token, words, colour in kinds:
        crossed = ";text-decoration:line-through" if token.cut else ""
        sample = (
            f"<span style='{small}{_look(token, colour)}{crossed}'>{escaped(token.text)}</span>"
        )
        entries.append(
            f"<span style='display:inline-block;margin-right:10px'>{sample} {words}</span>"
        )
    more = "above a token its position, below it its log-probability in nats; ␣ is a space"
    return f"<div style='{_MUTED};margin:2px 0 6px'>{' '.join(entries)}<br>{more}</div>"


def _table(pair: PairTokens, is_open: bool) -> str:
    """Every token in words: what the colours and the tips say, for all who do not see them."""
    names = ("position", "token", "id", "part", "predicted by", "log π", "log π_ref", "why")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = [_row(token, "both") for token in pair.chosen.prompt]
    rows += [_row(token, name) for name in SIDES for token in getattr(pair, name).response]
    return (
        f"<details{' open' if is_open else ''}><summary style='cursor:pointer'>"
        f"All {len(rows)} tokens in words</summary><div style='overflow-x:auto'>"
        f"<table style='font-size:12px;margin:4px 0'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _row(token: Token, side: str) -> str:
    part = token.part if side == "both" else f"{side}, {token.part}"
    values = [token.position, token.text, token.id, part, token.predicted_by]
    values += [None if v is None else _nats(v) for v in (token.logp, token.reference_logp)]
    cells = "".join(f"<td>{'–' if value is None else escaped(value)}</td>" for value in values)
    return f"<tr>{cells}<td style='text-align:left'>{escaped(token.why)}</td></tr>"


def _count(tokens: int) -> str:
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def _nats(value: float, digits: int = 4) -> str:
    """A log-probability with a true minus, and no minus in front of zero."""
    return f"{value:z.{digits}f}".replace("-", "−")
