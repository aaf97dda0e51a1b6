"""Ids of pairs, some of which may be single responses, with one side only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dpo_lab.data.pair_ids import TokenizedPair, encode_pairs
from dpo_lab.data.pairs import Pair, PromptFormat, ScoreTurns
from dpo_lab.data.problems import RowProblem
from dpo_lab.data.sampled_reader import SampledReader
from dpo_lab.data.text_to_ids import Encoder


def encode_singles(
    encoder: Encoder,
    pairs: Sequence[Pair],
    prompt_format: PromptFormat = "auto",
    reader: SampledReader | None = None,
    score_turns: ScoreTurns = "all",
) -> tuple[list[TokenizedPair], list[RowProblem]]:
    """As `encode_pairs`; a single response has ids on its own side alone.

    It is encoded as both sides of a pair, so that all that holds of those holds of it.
    """
    missing = {pair.place: "rejected" if pair.chosen else "chosen" for pair in pairs if pair.single}
    if not missing:
        return encode_pairs(encoder, pairs, prompt_format, reader, score_turns)
    whole = [_doubled(pair) if pair.single else pair for pair in pairs]
    encoded, problems = encode_pairs(encoder, whole, prompt_format, reader, score_turns)
    sides = [
        replace(one, **{missing[one.place]: ()}, single=True) if one.place in missing else one
        for one in encoded
    ]
    return sides, problems


def _doubled(pair: Pair) -> Pair:
    response = pair.chosen or pair.rejected
    sampled = pair.chosen_sampled or pair.rejected_sampled
    return replace(
        pair,
        chosen=response,
        rejected=response,
        chosen_sampled=sampled,
        rejected_sampled=sampled,
    )
