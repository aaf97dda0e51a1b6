"""A thousand rows at a time: to pairs, to ids, to columns of numbers and counts of what is wrong.

A chunk is looked at by itself, so that several processes can share the work; what needs all rows
(repeats, the split, nearly equal prompts) is found later in the columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dpo_lab.data.columns import ColumnUse
from dpo_lab.data.held_out import prompt_rank
from dpo_lab.data.pair_ids import TokenizedPair, encode_pairs
from dpo_lab.data.pairs import SIDES, Pair, Text, response_text, same_prompt
from dpo_lab.data.preflight.clean import LEFT_OUT
from dpo_lab.data.preflight.findings import Example, Tally, shortened
from dpo_lab.data.preflight.markup import Markup
from dpo_lab.data.preflight.minhash import Shingle, band_codes, template_shingles, words_of
from dpo_lab.data.preflight.pair_signs import PairSigns, whole_text
from dpo_lab.data.preflight.settings import CheckSettings
from dpo_lab.data.preflight.signs import (
    bucket_of,
    first_words,
)
from dpo_lab.data.problems import RowProblem, UnusableRow
from dpo_lab.data.readers import Row
from dpo_lab.data.rows import COLUMNS, prompt_column, row_to_pair, with_messages
from dpo_lab.data.sampled_reader import SampledReader
from dpo_lab.data.text_to_ids import Encoder
from dpo_lab.data.tokenized_pairs import check_ids, fit

NO_TEMPLATE = "messages, and the tokenizer has no chat template"


@dataclass
class Piece:
    """Pairs of a chunk that have a prompt of their own, or those whose responses hold it.

    Attributes:
        columns: A number for each pair.
        prompts: The prompt of each pair, as `Pair.prompt_key`.
        tally: What was found in them.
        first: First words by their bucket.
    """

    columns: dict[str, np.ndarray]
    prompts: list[str]
    tally: Tally
    first: dict[int, str]


@dataclass
class Chunk:
    """What was found in some rows of a split.

    Attributes:
        split: Its name.
        rows: How many.
        skipped: Rows that make no pair, by reason.
        pieces: Pairs with a prompt column (False), and those without (True).
        unused: Rows with a value in a column that nothing uses.
        overlooked: Columns that look like a prompt where none was found, and the first row.
    """

    split: str
    rows: int
    skipped: Tally = field(default_factory=Tally)
    pieces: dict[bool, Piece] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    overlooked: dict[str, int] = field(default_factory=dict)


class Examiner:
    """Looks at rows for one model.

    Args:
        encoder: Of the model.
        settings: The check's settings.
        ignored: Columns that are for people, and are not named.

    Attributes:
        encoder: Of the model.
        settings: The check's settings.
        markup: Finds chat markup.
        template: Shingles of words that many prompts share.
    """

    def __init__(self, encoder: Encoder, settings: CheckSettings, ignored: Sequence[str] = ()):
        self._ignored = tuple(ignored)
        self.encoder, self.settings, self.markup = encoder, settings, Markup(encoder)
        self.template: frozenset[Shingle] = frozenset()
        self._columns = {name: settings.columns.get(name, name) for name in COLUMNS}

    def learn_template(self, rows: Sequence[Row]) -> None:
        """Find what many prompts share, by the first rows of the data."""
        prompts = {}
        for row in rows:
            made = row.problem or self._pair(row.number, with_messages(row.value, self._columns))
            if isinstance(made, Pair):
                prompts[same_prompt(made.prompt)] = words_of(whole_text(made.prompt))
        self.template = template_shingles(prompts.values())

    def examine(self, split: str, rows: Sequence[Row]) -> Chunk:
        """What is found in some rows.

        Args:
            split: Name of their split.
            rows: The rows.
        """
        chunk = Chunk(split, len(rows))
        use = ColumnUse(self._columns, self._ignored)
        pairs: dict[bool, list[Pair]] = {False: [], True: []}
        scores: dict[int, tuple[float, float]] = {}
        for row in rows:
            value = with_messages(row.value, self._columns)
            made = row.problem or self._pair(row.number, value, use)
            if isinstance(made, RowProblem):
                text = shortened(str(row.value)) if row.value is not None else ""
                example = Example(row.number, split, text, shortened(made.detail, 240))
                chunk.skipped.add(made.reason, row.number, lambda example=example: example)
            else:
                pairs[prompt_column(value, self._columns) is None].append(made)
                if both := _scores_of(value, self._columns):
                    scores[row.number] = both
        chunk.unused, chunk.overlooked = use.unused, use.overlooked
        for implicit, some in pairs.items():
            if some:
                chunk.pieces[implicit] = self._piece(split, some, scores)
        return chunk

    def _pair(self, number: int, value: object, use: ColumnUse | None = None) -> Pair | RowProblem:
        made: Pair | RowProblem
        try:
            try:
                made = row_to_pair(number, value, self._columns)
            except UnusableRow as why:
                made = why.at(number)
            if use:
                use.add(number, value, made)
        except RecursionError:
            made = RowProblem(number, None, "nested too deep")
        return made

    def _piece(
        self, split: str, pairs: Sequence[Pair], scores: Mapping[int, tuple[float, float]]
    ) -> Piece:
        tally = Tally()
        found = PairSigns(split, tally, self.markup)
        tokens, usable = self._tokens(pairs, found)
        first: dict[int, str] = {}
        columns: dict[str, list] = {name: [] for name in _KINDS}
        words = []
        for pair in pairs:
            ids = tokens.get(pair.row)
            prompt = same_prompt(pair.prompt)
            # Words of the whole prompt, so that dialogues with the same last turn are not equal.
            words.append(words_of(whole_text(pair.prompt)))
            codes = [_code(prompt, _said(getattr(pair, side))) for side in SIDES]
            openings = [first_words(response_text(getattr(pair, side))) for side in SIDES]
            buckets = list(map(bucket_of, openings))
            for bucket, opening in zip(buckets, openings, strict=True):
                first.setdefault(bucket, opening)
            values = {
                "row": pair.row,
                "usable": pair.row in usable,
                "prompt": _code(prompt),
                "rank": int.from_bytes(prompt_rank(pair.prompt_key, self.settings.seed)),
                "pair": (codes[0] + codes[1]) % 2**64,  # the same whichever is preferred
                "turned": codes[0] > codes[1],
                "prompt_tokens": len(ids.prompt) if ids else 0,
                "chosen_tokens": len(ids.chosen) if ids else 0,
                "rejected_tokens": len(ids.rejected) if ids else 0,
                "chosen_first": buckets[0],
                "rejected_first": buckets[1],
            } | found.look(pair, ids, scores.get(pair.row))
            for name, value in values.items():
                columns[name].append(value)
        arrays = {name: np.array(values, _KINDS[name]) for name, values in columns.items()}
        left_out = [row for name, rows in tally.rows.items() if name in LEFT_OUT for row in rows]
        arrays["drop"] = np.isin(arrays["row"], left_out)
        bands = band_codes(words, self.template)
        arrays |= {f"band{number}": bands[:, number] for number in range(bands.shape[1])}
        return Piece(arrays, [pair.prompt_key for pair in pairs], tally, first)

    def _tokens(
        self, pairs: Sequence[Pair], found: PairSigns
    ) -> tuple[dict[int, TokenizedPair], set[int]]:
        """Ids of each pair that has any, before the cut; rows that can be trained on."""
        settings, encoder = self.settings, self.encoder
        refused = not encoder.chat and settings.prompt_format != "plain"
        without = [pair for pair in pairs if refused and not isinstance(pair.prompt, str)]
        others = [pair for pair in pairs if not (refused and not isinstance(pair.prompt, str))]
        encoded, problems = encode_pairs(
            encoder,
            others,
            settings.prompt_format,
            SampledReader(encoder),
            settings.score_turns,
        )
        problems += [RowProblem(pair.row, "prompt", NO_TEMPLATE) for pair in without]
        usable = set()
        by_row = {pair.row: pair for pair in pairs}
        for ids in encoded:
            try:
                check_ids(ids, encoder)
                short = fit(ids, settings.max_length, settings.max_prompt_length, encoder)
            except UnusableRow as why:
                problems.append(why.at(ids.row))
                continue
            usable.add(ids.row)
            if short.prompt != ids.prompt:
                found.add("prompts_cut", by_row[ids.row], f"{len(ids):,} tokens")
            if (short.chosen, short.rejected) != (ids.chosen, ids.rejected):
                found.add("responses_cut", by_row[ids.row], f"{len(ids):,} tokens")
        for problem in problems:
            found.add(f"unusable/{problem.reason}", by_row[problem.row], problem.detail)
        return {ids.row: ids for ids in encoded}, usable


_KINDS = {
    "row": np.int64,
    "usable": np.bool_,
    "prompt": np.uint64,
    "rank": np.uint64,
    "pair": np.uint64,
    "turned": np.bool_,
    "prompt_tokens": np.int32,
    "chosen_tokens": np.int32,
    "rejected_tokens": np.int32,
    "chosen_first": np.uint16,
    "rejected_first": np.uint16,
    "prompt_script": np.uint8,
    "chosen_script": np.uint8,
    "rejected_script": np.uint8,
}


def _scores_of(row: Mapping, columns: Mapping[str, str]) -> tuple[float, float] | None:
    """Scores of chosen and rejected that a row has beside them."""
    for pattern in ("score_{}", "{}_score", "{}_rating", "rating_{}"):
        names = [pattern.format(columns[side]) for side in SIDES]
        found = [row.get(name) for name in names]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in found):
            return found[0], found[1]
    return None


def _code(*texts: str) -> int:
    """A hash of 64 bits: two of a million texts have the same with probability 3e-8."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(digest.digest())


def _said(response: Text) -> str:
    """A response as one text, white space at its ends apart."""
    return response.strip() if isinstance(response, str) else repr(response)
