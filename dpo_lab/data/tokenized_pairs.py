"""Pairs to token ids: checks that need tokens, and cuts that keep what matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.data.pairs import SIDES, PromptFormat, ScoreTurns
from dpo_lab.data.preferences import Preferences
from dpo_lab.data.problems import NAMED, BadRowsRule, OnBadRows, RowProblem, UnusableRow
from dpo_lab.data.sampled_reader import SampledReader
from dpo_lab.data.single_ids import encode_singles
from dpo_lab.data.text_to_ids import Encoder, PromptResponse
from dpo_lab.data.token_ids import turns_of, without_end_context


@dataclass(frozen=True)
class TokenizedPairs(Sequence[TokenizedPair]):
    """Token ids of a data set, with what was cut or dropped on the way.

    Attributes:
        pairs: The pairs that fit.
        truncated_prompts: Pairs whose prompt lost its beginning.
        truncated_responses: Pairs of which a response lost its end, and so its end token.
        dropped: Pairs left out, by reason.
        problems: The first of them, with row numbers.
        sampled: Responses that a model sampled, by what became of their ids.

    What else was done to some of the pairs stands in their `notes`, and is counted in words.
    """

    pairs: tuple[TokenizedPair, ...]
    truncated_prompts: int = 0
    truncated_responses: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()
    sampled: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        """The pair at an index."""
        return self.pairs[index]

    def sequences(self) -> list[PromptResponse]:
        """`(prompt, response)` of all chosen responses, then of all rejected ones."""
        chosen = [(pair.prompt, pair.chosen) for pair in self.pairs]
        return chosen + [(pair.prompt, pair.rejected) for pair in self.pairs]

    def __str__(self) -> str:
        what = "single responses" if any(pair.single for pair in self.pairs) else "pairs"
        parts = [f"{len(self)} {what} tokenised"]
        if self.truncated_prompts:
            parts.append(f"{self.truncated_prompts} prompts truncated")
        if self.truncated_responses:
            parts.append(f"{self.truncated_responses} with a response truncated")
        notes = Counter(note for pair in self.pairs for note in pair.notes)
        parts += [f"{count} {note}" for note, count in notes.items()]
        parts += [
            f"{count} response{'s' * (count != 1)} {what}" for what, count in self.sampled.items()
        ]
        parts += [f"{count} dropped ({reason})" for reason, count in self.dropped.items()]
        return ", ".join(parts)


def tokenize_pairs(
    preferences: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 512,
    max_prompt_length: int | None = None,
    prompt_format: PromptFormat = "auto",
    score_turns: ScoreTurns = "all",
    vocabulary: int | None = None,
    on_bad_rows: OnBadRows | None = None,
    max_problems: int = NAMED,
) -> TokenizedPairs:
    """Token ids of every pair, as `Encoder` parts prompt and response.

    A pair that is too long loses the beginning of its prompt first (the end holds the question),
    down to half of `max_length`; then the end of a response, its end token too. Both are counted.

    Args:
        preferences: The pairs.
        tokenizer: The model's tokenizer.
        max_length: Most tokens of prompt and response together.
        max_prompt_length: Most tokens of a prompt; by default, what the longer response leaves, at
            least half of `max_length`.
        prompt_format: Whether text is put through the chat template, as `Encoder.as_prompt`.
        score_turns: Which of the assistant's messages after the prompt are scored.
        vocabulary: How many ids the model has an embedding for; all, if not given.
        on_bad_rows: As in `load_preferences`, for pairs that cannot be used: refused by the chat
            template, a token without an embedding, a response that the cut left empty or equal to
            the other, an end token inside a response.
        max_problems: How many such pairs are named.

    Raises:
        BadRows: With `on_bad_rows="raise"`, if a pair cannot be used.
        ValueError: If `max_length` leaves no room, or no pair is left.
    """
    rule = BadRowsRule(on_bad_rows, max_problems)
    _check_lengths(max_length, max_prompt_length)
    encoder = Encoder(tokenizer, vocabulary)
    reader = SampledReader(encoder)
    encoded, problems = encode_singles(encoder, preferences, prompt_format, reader, score_turns)
    kept, cut = [], Counter()
    for pair in encoded:
        try:
            check_ids(pair, encoder)
            short = fit(pair, max_length, max_prompt_length, encoder)
        except UnusableRow as why:
            problems.append(why.at(pair.row))
            continue
        cut["prompts"] += short.prompt != pair.prompt
        cut["responses"] += (short.chosen, short.rejected) != (pair.chosen, pair.rejected)
        kept.append(short)
    source = preferences.report.source
    dropped, named = rule.skip(source, len(preferences), problems)
    if not kept:
        raise ValueError(
            f"{source}: no pair is left after tokenising with max_length={max_length} "
            f"({named[0] if named else 'there was none'}). Raise max_length, or fix the rows."
        )
    cuts = cut["prompts"], cut["responses"]
    tokens = TokenizedPairs(tuple(kept), *cuts, dropped, named, dict(reader.found))
    rule.warn(dropped, f"{source}: {tokens}")
    return tokens


def _check_lengths(max_length: int, max_prompt_length: int | None) -> None:
    if max_length < 2:
        raise ValueError(
            f"max_length={max_length}: must be at least 2, one token of prompt and one of response."
            " Raise it."
        )
    if max_prompt_length is not None and max_prompt_length < 1:
        raise ValueError(
            f"max_prompt_length={max_prompt_length}: must be at least 1, since a response is "
            "predicted from its prompt. Leave it out to have the prompt fit beside the response."
        )


def check_ids(pair: TokenizedPair, encoder: Encoder) -> None:
    """Refuse ids that cannot be trained on: of an empty prompt or response, or of equal ones.

    Raises:
        UnusableRow: If so.
    """
    if pair.prompt in ((), encoder.bos):
        raise UnusableRow("prompt", "no token in the prompt")
    for side in SIDES:
        ids = getattr(pair, side)
        if not ids and pair.single:
            continue
        turns = turns_of(ids)
        if not turns or any(turn[0] in encoder.end_ids for turn in turns):
            raise UnusableRow(side, "no token in the response")
        if any(token in encoder.end_ids for turn in turns for token in turn[:-1]):
            raise UnusableRow(side, "an end token inside the response")
    if pair.chosen == pair.rejected:
        raise UnusableRow("rejected", "same tokens as chosen")


def fit(
    pair: TokenizedPair, max_length: int, max_prompt_length: int | None, encoder: Encoder
) -> TokenizedPair:
    """The pair, cut to its limits, as `tokenize_pairs` says.

    Raises:
        UnusableRow: If the cut leaves a response empty, or both equal.
    """
    longest = max(len(pair.chosen), len(pair.rejected))
    budget = max_prompt_length or max(max_length - longest, max_length // 2)
    if len(pair.prompt) <= budget and len(pair.prompt) + longest <= max_length:
        return pair
    # A template may write BOS where the tokenizer adds none.
    bos = encoder.bos or (encoder.tokenizer.bos_token_id,)
    prompt = _cut_prompt(pair.prompt, budget, bos)
    room = max(0, max_length - len(prompt))
    if not room:
        raise UnusableRow("chosen", "response empty after truncation")
    sides = {side: without_end_context(getattr(pair, side)[:room]) for side in SIDES}
    for side, ids in sides.items():
        if not ids and getattr(pair, side):
            raise UnusableRow(side, "response empty after truncation")
    short = replace(pair, prompt=prompt, **sides)
    if short.chosen == short.rejected:
        raise UnusableRow("rejected", "responses equal after truncation")
    return short


def _cut_prompt(prompt: Ids, budget: int, bos: Ids) -> Ids:
    """The last `budget` tokens, BOS kept in front."""
    if len(prompt) <= budget:
        return prompt
    first = bos if prompt[: len(bos)] == bos and budget > len(bos) else ()
    return first + prompt[len(prompt) - budget + len(first) :]
