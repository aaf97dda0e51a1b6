"""A chat template that was given: the name of a file, or the template itself."""

from __future__ import annotations

from pathlib import Path


def template_text(given: str) -> str:
    """The template that is meant, as text.

    Args:
        given: A file of Jinja, or the template's own text, as a run keeps it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no template.
    """
    if _is_jinja(given):
        return given
    try:
        text = Path(given).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"chat_template={given!r}: no such file, and the words are no template, which would "
            "hold {{ or {%. Give a file of Jinja."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"chat_template={given!r}: cannot be read ({error}). Give a file of Jinja."
        ) from None
    if not _is_jinja(text):
        raise ValueError(
            f"chat_template={given!r}: holds no template, which would write the messages by "
            "{{ or {%. Give a file of Jinja, such as chat_template.jinja beside a model."
        )
    return text


def _is_jinja(text: str) -> bool:
    return "{{" in text or "{%" in text
