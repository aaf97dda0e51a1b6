"""Token credit as a heat map: which tokens the rewards of chosen and rejected come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dpo_lab.analysis.token_credit import Credit
from dpo_lab.ui.figures.style import CHOSEN, REJECTED, tint
from dpo_lab.ui.html.output import Fragment, visible
from dpo_lab.ui.html.tables import number, render

FOR, AGAINST = CHOSEN, REJECTED
"""Blue and orange of Okabe and Ito: apart for every kind of colour vision."""
STRONGEST = 0.7
"""Opacity of the largest credit: below the page's ink, so that text reads in light and dark."""


def credit_map(credits: Mapping[str, Credit], prompt: str = "") -> Fragment:
    """Tokens coloured by their share of the reward, one row a response, all on one scale.

    Args:
        credits: A name, such as `chosen`, to its credit.
        prompt: The prompt as text; left out if empty.

    Returns:
        Tokens with their numbers, more on hover; the scale; and each row in a sentence.
    """
    sizes = [value for credit in credits.values() for value in credit.rewards.abs().tolist()]
    scale = max(sizes, default=0.0)
    page = render(
        "html/credit.html.jinja",
        prompt=prompt,
        credits=credits,
        tokens=_tokens,
        in_words=in_words,
        signed=_signed,
        scale=scale,
        colour=lambda value: _colour(value / scale if scale else 0.0),
        ends=(_colour(-1), tint(FOR, 0), _colour(1)),
    )
    words = [f"prompt: {prompt}"] * bool(prompt)
    words += [in_words(name, credit) for name, credit in credits.items()]
    return Fragment(page, "\n".join(words))


def in_words(name: str, credit: Credit) -> str:
    """One response's credit as a plain sentence."""
    rewards = credit.rewards.tolist()
    best, worst = max(rewards, default=0.0), min(rewards, default=0.0)
    parts = [f"{name}: reward {_signed(credit.reward)}, the sum of {len(rewards)} tokens"]
    if best > 0:
        parts.append(f"most for “{_shown(credit, best)}” ({_signed(best)})")
    if worst < 0:
        parts.append(f"most against “{_shown(credit, worst)}” ({_signed(worst)})")
    return "; ".join(parts)


def _shown(credit: Credit, value: float) -> str:
    text = credit.texts[credit.rewards.tolist().index(value)]
    return text.strip() or repr(text)[1:-1]


class _ShownToken(NamedTuple):
    code: str
    value: float
    hover: str
    end: bool


def _tokens(credit: Credit) -> Iterator[_ShownToken]:
    columns = (credit.rewards, credit.reference_logps, credit.policy_logps)
    last = len(credit.texts) - 1
    for place, text in enumerate(credit.texts):
        value, before, after = (column[place].item() for column in columns)
        end = credit.ends and place == last
        hover = (
            f"{'end of text: ' * end}credit {_signed(value)} = β {credit.beta:g} × "
            f"({number(after)} − {_in_brackets(before)}) nats, policy less reference"
        )
        # A tokenizer may put a space before its end token; none is scored there.
        yield _ShownToken(visible(text.strip() if end else text), value, hover, end)


def _in_brackets(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _colour(share: float) -> str:
    """Of a share of the largest credit, from -1 to 1."""
    return tint(FOR if share > 0 else AGAINST, STRONGEST * abs(share))


def _signed(value: float) -> str:
    """Two decimals with their sign, three where it is small; what is 0 in print has none."""
    if abs(value) < 5e-4:
        return "0.00"
    return f"{value:+.{2 if abs(value) >= 0.0995 else 3}f}".replace("-", "−")
