"""Report of a pair's tokens as training uses them: which are read, scored or cut, and why.

Nothing is tokenised or masked here. Ids come from `Encoder` and `tokenize_pairs`, scored positions
from `collate`, log-probabilities from a `LogpScorer`: the report shows what a run computes with.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.batching import collate
from dpo_lab.data.load_report import LoadReport
from dpo_lab.data.pair_ids import TokenizedPair, encode_pairs
from dpo_lab.data.pairs import Pair, PromptFormat, ScoreTurns
from dpo_lab.data.preferences import Preferences
from dpo_lab.data.problems import BadRows
from dpo_lab.data.text_to_ids import Encoder, PromptResponse
from dpo_lab.data.token_ids import count_scored
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer

Part = Literal["BOS", "prompt", "response", "end token", "context"]
SIDES = ("chosen", "rejected")

_SHOWN_AS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")
"""Unicode categories (control, format, unassigned, separators) shown as code points."""

_READ = {
    "BOS": "read, not scored: the beginning of the text, which nothing predicts",
    "prompt": "read, not scored: the policy does not choose the prompt",
    "context": "read, not scored: the policy does not write this, or both responses share it",
}


@dataclass(frozen=True)
class Token:
    """One token of prompt + response.

    Attributes:
        text: Its text, with white space and control characters made visible.
        name: The tokenizer's name for it.
        id: Its id.
        part: The part of the sequence that it belongs to.
        why: Why it is scored or not, in words.
        position: Its position in the sequence that the model reads; none if it is not read.
        predicted_by: The position whose logits predict it, if it is scored.
        cut: Whether it was cut off to fit the limits.
        logp: Log-probability under the policy, nats, if a policy was given.
        reference_logp: The same under the reference.
        role: Of a conversation, whose message it belongs to.
    """

    text: str
    name: str
    id: int
    part: Part
    why: str
    position: int | None = None
    predicted_by: int | None = None
    cut: bool = False
    logp: float | None = None
    reference_logp: float | None = None
    role: str | None = None

    @property
    def scored(self) -> bool:
        """Whether its log-probability is part of the sum."""
        return self.predicted_by is not None


@dataclass(frozen=True)
class Side:
    """Every token of prompt + response, including those that were cut off.

    Attributes:
        tokens: The tokens in text order.
    """

    tokens: tuple[Token, ...]

    @property
    def prompt(self) -> tuple[Token, ...]:
        """The prompt's tokens, BOS in front if there is one."""
        return tuple(token for token in self.tokens if token.part in ("BOS", "prompt"))

    @property
    def response(self) -> tuple[Token, ...]:
        """The response's tokens with its end token, and the context within it."""
        return tuple(token for token in self.tokens if token.part not in ("BOS", "prompt"))

    @property
    def scored(self) -> tuple[Token, ...]:
        """The tokens whose log-probabilities are summed."""
        return tuple(token for token in self.tokens if token.scored)

    @property
    def logp(self) -> float | None:
        """`log pi(y|x)`, nats: the sum over the scored tokens."""
        return _total(token.logp for token in self.scored)

    @property
    def reference_logp(self) -> float | None:
        """`log pi_ref(y|x)`, nats."""
        return _total(token.reference_logp for token in self.scored)


def _total(logps: Iterable[float | None]) -> float | None:
    logps = list(logps)
    return math.fsum(logps) if logps and None not in logps else None


@dataclass(frozen=True)
class PairTokens:
    """The tokens of both sequences of a pair.

    Attributes:
        row: Row number in the source.
        chosen: Prompt and chosen response.
        rejected: Prompt and rejected response.
        dropped: Why training leaves the pair out, if it does; then no token has a position.
    """

    row: int
    chosen: Side
    rejected: Side
    dropped: str | None = None

    @property
    def prompt_cut(self) -> int:
        """Number of tokens cut from the beginning of the prompt."""
        return sum(token.cut for token in self.chosen.prompt)

    @property
    def cut(self) -> bool:
        """Whether any token was cut off."""
        return any(token.cut for side in (self.chosen, self.rejected) for token in side.tokens)


def pair_tokens(
    pair: Pair,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 512,
    max_prompt_length: int | None = None,
    prompt_format: PromptFormat = "auto",
    score_turns: ScoreTurns = "all",
    policy: LogpScorer | None = None,
    reference: LogpScorer | Reference | None = None,
) -> PairTokens:
    """The tokens of a pair as training uses them.

    Args:
        pair: One pair, of any shape.
        tokenizer: The model's tokenizer.
        max_length: As in `tokenize_pairs` and `TrainConfig`.
        max_prompt_length: The same.
        prompt_format: The same.
        score_turns: The same.
        policy: Scorer that gives every scored token its log-probability.
        reference: The same for the reference.

    Returns:
        Both sequences, token by token.

    Raises:
        ValueError: If a limit leaves no room, or there is no chat template for a conversation.
    """
    encoder = Encoder(tokenizer)
    limits = {"max_length": max_length, "max_prompt_length": max_prompt_length}
    options = {"prompt_format": prompt_format, "score_turns": score_turns}
    used, dropped = _as_trained(pair, tokenizer, **options, **limits)
    encoded, _ = encode_pairs(encoder, [pair], prompt_format, score_turns=score_turns)
    if not encoded:  # there is nothing to show; `dropped` says why
        return PairTokens(pair.row, Side(()), Side(()), dropped)
    (whole,) = encoded
    if used is None:
        sides = (Side(tuple(_all(whole, side, encoder))) for side in SIDES)
        return PairTokens(pair.row, *sides, dropped)
    sequences = [(used.prompt, getattr(used, side)) for side in SIDES]
    scores = _scores(sequences, encoder.pad_id, policy, reference)
    sides = (_side(whole, used, side, encoder, scores[at]) for at, side in enumerate(SIDES))
    if _several_roles(pair):
        given = encoder.as_prompt(pair.prompt, prompt_format)
        sides = (
            _with_roles(side, encoder.roles(given, getattr(pair, name)))
            for name, side in zip(SIDES, sides, strict=True)
        )
    return PairTokens(pair.row, *sides)


def _several_roles(pair: Pair) -> bool:
    """Whether who wrote a token is worth telling: more than a question and its answer."""
    messages = [
        side for side in (pair.prompt, pair.chosen, pair.rejected) if isinstance(side, list)
    ]
    return sum(map(len, messages)) > len(SIDES) + 1


def _with_roles(side: Side, ends: list[tuple[int, str]]) -> Side:
    """Each token with its message's role; a token that is scored is the assistant's."""
    tokens, at = [], 0
    for count, token in enumerate(side.tokens):
        while at < len(ends) - 1 and count >= ends[at][0]:
            at += 1
        role = "assistant" if token.scored else ends[at][1]
        tokens.append(replace(token, role=role))
    return Side(tuple(tokens))


def _as_trained(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, **options: int | str | None
) -> tuple[TokenizedPair | None, str | None]:
    """The ids that a run would train on, or the reason why it drops the pair."""
    alone = Preferences((pair,), LoadReport(f"row {pair.row}", 1, 1))
    try:
        return tokenize_pairs(alone, tokenizer, on_bad_rows="raise", **options)[0], None
    except BadRows as error:
        (problem,) = error.problems
        return None, problem.reason + (f" ({problem.detail})" if problem.detail else "")


Scores = dict[int, tuple[int, float | None, float | None]]
"""For each scored position: the position that predicts it, and both log-probabilities."""


def _scores(
    sequences: list[PromptResponse],
    pad_id: int,
    policy: LogpScorer | None,
    reference: LogpScorer | Reference | None,
) -> list[Scores]:
    """Scored positions of each sequence, as a batch has them, with their log-probabilities."""
    batch = collate(sequences, pad_id)
    sources = batch.source % batch.input_ids.shape[1]
    scores = []
    logps = [_token_logps(scorer, sequences) for scorer in (policy, reference)]
    for at in range(len(sequences)):
        columns = [sources[batch.token][batch.response == at].tolist()]
        columns += [of_model[at] for of_model in logps]
        scores.append({row[0] + 1: row for row in zip(*columns, strict=True)})
    return scores


@torch.no_grad()
def _token_logps(
    scorer: LogpScorer | Reference | None, sequences: list[PromptResponse]
) -> list[list[float] | list[None]]:
    """Log-probabilities of each sequence's scored tokens, in order; `None` without a scorer."""
    if scorer is None:
        return [[None] * count_scored(response) for _, response in sequences]
    with nullcontext(scorer) if isinstance(scorer, LogpScorer) else scorer.active() as active:
        batch = active.batch(sequences)
        values = active.token_logps(batch)[batch.token]
    return [values[batch.response == at].tolist() for at in range(len(sequences))]


def _side(
    whole: TokenizedPair, used: TokenizedPair, side: str, encoder: Encoder, scores: Scores
) -> Side:
    """One sequence, with the tokens that were cut from it in their original places."""
    lost, kept = len(whole.prompt) - len(used.prompt), len(getattr(used, side))
    # Where the cut begins: BOS may have been kept in front of it.
    start = 0 if whole.prompt[lost:] == used.prompt else 1
    tokens, position = [], 0
    for index, token in enumerate(_all(whole, side, encoder)):
        offset = index - len(whole.prompt)
        if start <= index < start + lost or offset >= kept:
            why = "cut: the prompt was too long, and its beginning goes first"
            why = why if offset < 0 else "cut: the response was too long; it has no end any more"
            tokens.append(replace(token, cut=True, why=why))
            continue
        by, logp, reference_logp = scores.get(position, (None, None, None))
        why = _READ.get(token.part, "")
        if by is not None:
            end = "the end of the response; " if token.part == "end token" else ""
            last = ", the prompt's last" if offset == 0 else ""
            why = f"scored: {end}predicted from position {by}{last}"
        values = {"logp": logp, "reference_logp": reference_logp}
        tokens.append(replace(token, position=position, predicted_by=by, why=why, **values))
        position += 1
    return Side(tuple(tokens))


def _all(whole: TokenizedPair, side: str, encoder: Encoder) -> Iterator[Token]:
    """Every token of the uncut sequence, without position or score."""
    why, tokenizer = "not used: the row is dropped", encoder.tokenizer
    parts = [(token, "prompt") for token in whole.prompt]
    if whole.prompt[:1] == (tokenizer.bos_token_id,):
        parts[0] = (whole.prompt[0], "BOS")
    for token in getattr(whole, side):  # one that hit its length limit has no end token
        if token < 0:
            parts.append((~token, "context"))
        else:
            parts.append((token, "end token" if token in encoder.end_ids else "response"))
    for token, part in parts:
        yield Token(*shown(tokenizer, token), token, part, why)


def shown(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, str]:
    """A token's text with invisible characters made visible, and the tokenizer's name for it.

    Args:
        tokenizer: The tokenizer.
        token: The token's id.
    """
    name = str(tokenizer.convert_ids_to_tokens(token))
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if name.startswith("▁") and not text.startswith(" "):
        text = " " + text  # SentencePiece drops the space of a text's first token
    if not text or "\ufffd" in text:
        text = name  # part of a character has no text of its own
    return "".join(map(visible_letter, text)), name


def visible_letter(letter: str) -> str:
    """A character as it is, or a visible symbol for white space and control characters."""
    if letter in _SHOWN_AS or unicodedata.category(letter) not in _INVISIBLE:
        return _SHOWN_AS.get(letter, letter)
    return f"⟨{ord(letter):X}⟩"
