"""What is said of each kind of finding: how serious it is, in words, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.data.pair_ids import PARTED, TRAILING
from dpo_lab.data.preflight.chunk import NO_TEMPLATE
from dpo_lab.data.preflight.findings import Severity
from dpo_lab.data.rows import NO_SHARED_PROMPT
from dpo_lab.data.templates import GENERATED, UNOPENED
from dpo_lab.data.text_to_ids import AS_IT_IS, AS_MESSAGES, AS_TEXT, CHANGED, MOVED, TRIMMED


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: How serious a single row of it is.
        title: What was found.
        fix: What to do.
        serious_from: Share of the rows from which it is serious.
    """

    severity: Severity
    title: str
    fix: str
    serious_from: float = 2.0

    def severity_at(self, share: float) -> Severity:
        """How serious it is if this share of the rows have it."""
        return "serious" if share >= self.serious_from else self.severity


KINDS = {
    "foreign_markup": Kind(
        "serious",
        "Text written by another model's chat template",
        "Give rows as messages ({role, content}), so that --model writes its own markup, or name "
        "the template they were written for with --chat-template FILE; of a few, --clean-out "
        "FOLDER leaves them out.",
    ),
    "own_markup": Kind(
        "warning",
        "The model's own special tokens inside a message",
        "Take them out of the text, since the chat template writes them around each message; "
        "--clean-out FOLDER leaves these rows out.",
        0.01,
    ),
    "end_twice": Kind(
        "warning",
        "Responses end with an end token that is written once more",
        "Take it out of the text. Training keeps one; most other trainers score both.",
    ),
    "prompts_cut": Kind("warning", "Prompts lose their beginning to --max-length", "{length}", 0.1),
    "responses_cut": Kind(
        "warning",
        "Responses lose their end, and their end token, to --max-length",
        "{length}",
        0.05,
    ),
    "same_but_space": Kind(
        "warning",
        "Chosen and rejected differ only in case or white space",
        "--clean-out FOLDER leaves these rows out, unless form is what is to be learnt.",
        0.05,
    ),
    "script_differs": Kind(
        "note",
        "Chosen in another script than the prompt",
        "Look at the examples; leave them out unless translations are meant.",
    ),
    "score_against": Kind(
        "serious",
        "The row's own scores rate chosen below rejected",
        "Swap the sides (--columns chosen rejected rejected chosen) if it is nearly all rows; "
        "if it is a few, --clean-out FOLDER leaves them out.",
    ),
    "score_tied": Kind(
        "warning",
        "The row's own scores rate both responses the same",
        "Their label is chance; --clean-out FOLDER leaves them out.",
    ),
    "both_labels": Kind(
        "warning",
        "The same pair with both labels",
        "--clean-out FOLDER leaves both out; --label-smoothing {smoothing} (--loss sigmoid or "
        "robust) expects so many wrong ones.",
        0.01,
    ),
    "repeated": Kind(
        "note",
        "The same pair again, with the same label",
        "A repeated pair weighs more than others; --clean-out FOLDER keeps the first.",
        0.2,
    ),
    "equal_prompts": Kind(
        "warning",
        "Held-out prompts that are trained on, too",
        "Training leaves them out of the held-out pairs; --clean-out FOLDER does so for good.",
        0.2,
    ),
    "near_prompts": Kind(
        "warning",
        "Held-out prompts nearly equal to one that is trained on",
        "Results on these measure memory; --clean-out FOLDER leaves them out of the held-out rows.",
        0.01,
    ),
    "one_prompt": Kind(
        "note",
        "Pairs of the most frequent prompt",
        "Check that it is meant; by --held-out whole prompts are held out.",
    ),
    "unused_column": Kind(
        "note",
        "Columns that nothing uses",
        "Map one with --columns, or write it into the prompt; otherwise nothing is needed.",
    ),
    "overlooked_prompt": Kind(
        "serious",
        "No column 'prompt', and another column looks like one",
        "--columns prompt {column}",
    ),
    "lost_prompt": Kind(
        "warning",
        "Rows without a prompt, though others have one",
        "Give these rows their prompt, or leave them out.",
        0.05,
    ),
    "shortcut": Kind("warning", "{rule}", "{fix}"),
}

NOTES = {
    MOVED: Kind(
        "note",
        "A token spans prompt and response; it is scored with the response",
        "End prompts without white space, and begin responses with it; or use messages.",
    ),
    TRIMMED: Kind("note", "White space after the end token was cut", "Nothing is needed."),
    GENERATED: Kind(
        "note",
        "Answered after the generation prompt, since the template's history drops thinking",
        "Nothing is needed; look at a row in the token inspector.",
    ),
    UNOPENED: Kind(
        "note",
        "A generation prompt opens thinking that the conversation does not have",
        "Nothing is needed; --thinking empty asks for answers with thinking turned off.",
    ),
    PARTED: Kind(
        "note",
        "The conversations part at a message that the assistant did not write",
        "Look at a row: are both answers to the same prompt?",
    ),
    TRAILING: Kind("note", "Messages after the last answer are left out", "Nothing is needed."),
    CHANGED: Kind(
        "warning",
        "The chat template changes an answer, or leaves out something of it",
        "Look at a row in the token inspector; another template: --chat-template FILE.",
        0.2,
    ),
    AS_MESSAGES: Kind(
        "note",
        "Plain text put through the chat template",
        "--prompt-format plain uses it as it is.",
    ),
    AS_IT_IS: Kind(
        "note",
        "Plain text with turns written out in it, used as it is",
        "--prompt-format chat puts it through the chat template.",
    ),
    AS_TEXT: Kind("note", "Messages written as plain text", "--prompt-format auto"),
}
"""Of what was done to rows on the way to token ids."""

UNUSABLE_FIXES = {
    "responses equal after truncation": "{length}",
    "response empty after truncation": "{length}",
    "an end token inside the response": "Take the end token out of the text.",
    "same tokens as chosen": "They prefer nothing, and training leaves them out.",
    NO_TEMPLATE: "Take the instruct model, or give --chat-template FILE.",
    "refused by the chat template": "Fix the roles of these rows, or give --chat-template FILE.",
    "rewritten by the chat template": "Give a template that keeps what was said before: "
    "--chat-template FILE.",
}
SKIPPED_FIXES = {
    NO_SHARED_PROMPT: "Name the column that holds it: --columns prompt NAME.",
    "missing": "Name the columns: --columns prompt ... chosen ... rejected ...",
    "equal to chosen": "They prefer nothing, and training leaves them out.",
}
OTHER_FIX = "Fix these rows; training leaves them out (--on-bad-rows raise stops there)."
RULE_FIXES = {
    "length": "--ld-alpha 0.5 weighs what only the longer answer has by a half, --loss simpo takes "
    "the mean over tokens; or balance lengths, and compare with a win rate controlled for length.",
}
OTHER_RULE_FIX = "Balance it between chosen and rejected, or expect the policy to learn just this."


def kind_of(name: str) -> str | None:
    """The finding that a name of a tally belongs to; none where its rows are not listed."""
    group, _, rest = name.partition("/")
    if group == "unusable":
        return name_of(rest)
    return group if group in KINDS else None


def name_of(reason: str) -> str:
    """The kind of finding that pairs are which cannot be used for a reason."""
    names = {
        "responses equal after truncation": "equal_after_cut",
        "response empty after truncation": "empty_after_cut",
        "an end token inside the response": "end_inside",
        "same tokens as chosen": "same_tokens",
    }
    return names.get(reason, "unusable")
