"""Token credit as a heat map: which tokens the rewards of chosen and rejected come from."""

from __future__ import annotations

from collections.abc import Mapping

from dpo_lab.analysis.token_credit import Credit
from dpo_lab.ui.html.output import Fragment, visible
from dpo_lab.ui.html.tables import escaped, number

FOR, AGAINST = "0, 114, 178", "213, 94, 0"
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
    asked = f"<p>Prompt: <b>{escaped(prompt)}</b></p>" if prompt else ""
    rows = [_row(name, credit, scale) for name, credit in credits.items()]
    words = [f"prompt: {prompt}"] * bool(prompt)
    words += [in_words(name, credit) for name, credit in credits.items()]
    return Fragment(asked + "".join(rows) + _scale(scale), "\n".join(words))


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


def _row(name: str, credit: Credit, scale: float) -> str:
    said = in_words(name, credit)
    sentence, rest = escaped(said), escaped(said.removeprefix(name))
    last = len(credit.texts) - 1
    tokens = "".join(
        _token(credit, place, scale, credit.ends and place == last) for place in range(last + 1)
    )
    return (
        f"<div class='credit' role='group' aria-label='{sentence}'>"
        f"<h4><b>{escaped(name)}</b>{rest}</h4><div class='tokens'>{tokens}</div></div>"
    )


def _token(credit: Credit, place: int, scale: float, end: bool) -> str:
    value = credit.rewards[place].item()
    before, after = credit.reference_logps[place].item(), credit.policy_logps[place].item()
    # A tokenizer may put a space before its end token; none is scored there.
    text = credit.texts[place].strip() if end else credit.texts[place]
    what = "end of text: " if end else ""
    hover = (
        f"{what}credit {_signed(value)} = β {credit.beta:g} × "
        f"({number(after)} − {_in_brackets(before)}) nats, policy less reference"
    )
    return (
        f"<span class='token{' end' if end else ''}' title='{escaped(hover)}' "
        f"style='background-color: {_colour(value, scale)}'>"
        f"<code>{visible(text)}</code><small>{_signed(value)}</small></span>"
    )


def _in_brackets(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _colour(value: float, scale: float) -> str:
    strength = STRONGEST * min(1.0, abs(value) / scale) if scale else 0.0
    return f"rgba({FOR if value > 0 else AGAINST}, {strength:.3f})"


def _scale(scale: float) -> str:
    colours = ", ".join(
        (f"rgba({AGAINST}, {STRONGEST})", f"rgba({FOR}, 0)", f"rgba({FOR}, {STRONGEST})")
    )
    return (
        f"<div class='scale'><span>{_signed(-scale)} against</span>"
        f"<i style='background: linear-gradient(to right, {colours})'></i>"
        f"<span>{_signed(scale)} for</span>"
        "<span class='note'>credit: β × (log-probability by the policy − by the reference)</span>"
        "</div>"
    )


def _signed(value: float) -> str:
    """Two decimals with their sign, three where it is small; what is 0 in print has none."""
    if abs(value) < 5e-4:
        return "0.00"
    return f"{value:+.{2 if abs(value) >= 0.0995 else 3}f}".replace("-", "−")
