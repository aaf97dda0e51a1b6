"""What a tokenizer is told of its chat template: another one, a day, what becomes of thinking."""

from __future__ import annotations

from datetime import date

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.thinking import Thinking, switches

_DATE, _THINKING = "dpo_lab_template_date", "dpo_lab_thinking"


def use_template(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None = None,
    day: str | None = None,
    thinking: Thinking = "keep",
) -> None:
    """Give a tokenizer a template, its templates a day that is not today, and a rule of thinking.

    Args:
        tokenizer: It is changed.
        template: The template's text; by default it keeps its own.
        day: The date that `strftime_now` writes, as 2026-01-31; by default the day of the call.
        thinking: What becomes of the assistant's thinking.

    Raises:
        ValueError: If the template is no Jinja, the day no date, or the template cannot be told to
            ask for no thinking.
    """
    if template is not None:
        question = [{"role": "user", "content": "a"}]
        try:
            tokenizer.apply_chat_template(question, chat_template=template, tokenize=False)
        except TemplateSyntaxError as error:
            raise ValueError(
                f"chat_template: line {error.lineno} is no Jinja ({error.message}). Fix it there."
            ) from None
        except Exception:  # it may refuse this question, and take others
            pass
        tokenizer.chat_template = template
    setattr(tokenizer, _DATE, day and date.fromisoformat(day).isoformat())
    switches(template_of(tokenizer) or "", thinking)
    setattr(tokenizer, _THINKING, thinking)


def clock(day: str) -> str:
    """Jinja that comes before a template, and by which `strftime_now` writes the day given.

    `transformers` gives a template no function other than its own, so this one is written out. Its
    line break is not part of what the template writes.
    """
    known = "aAbBcdDeFGhHIjmMnpRSTuUVwWxXyYZz"
    steps = [f"%-{letter}" for letter in "dmHIMSjy"] + [f"%{letter}" for letter in known]
    written = {step: date.fromisoformat(day).strftime(step) for step in steps}
    replaced = "".join(f"|replace({step!r}, {text!r})" for step, text in written.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A tokenizer's template; the one of several that is used by default."""
    given = tokenizer.chat_template
    return given.get("default") if isinstance(given, dict) else given


def day_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The day that `use_template` gave, if any."""
    return getattr(tokenizer, _DATE, None)


def thinking_of(tokenizer: PreTrainedTokenizerBase) -> Thinking:
    """What becomes of the assistant's thinking."""
    return getattr(tokenizer, _THINKING, "keep")
