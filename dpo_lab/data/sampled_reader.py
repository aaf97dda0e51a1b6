"""What becomes of the ids that responses were sampled with: scored as they are, or read as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.sampled import Sampled
from dpo_lab.data.text_to_ids import Encoder

AS_SAMPLED = "scored by the ids that were sampled"
CUT = "cut at the length limit, so without an end token"
OTHER_TOKENIZER = "sampled with another tokenizer, so read as text"
UNKNOWN = "sampled with ids that the model has no embedding for, so read as text"
CHANGED = "other text than was sampled, so read as text"


@dataclass
class SampledReader:
    """Decides which responses are scored as they were sampled, and counts.

    Args:
        encoder: Of the model that is trained.

    Attributes:
        found: Sampled responses by what became of them, in words.
    """

    encoder: Encoder
    found: Counter[str] = field(default_factory=Counter)

    def ids(self, sampled: Sampled | None, text: str) -> Ids | None:
        """The ids of a response, if they are to be scored; none if its text is to be read.

        Args:
            sampled: How it was sampled, if it was.
            text: What the row says it is. Where that is not what the ids say, somebody has changed
                it, and the text counts.
        """
        if sampled is None:
            return None
        what = self._what_becomes_of(sampled, text)
        self.found[what] += 1
        if sampled.cut:
            self.found[CUT] += 1
        return sampled.ids if what == AS_SAMPLED else None

    def _what_becomes_of(self, sampled: Sampled, text: str) -> str:
        if sampled.tokenizer != self.encoder.fingerprint:
            return OTHER_TOKENIZER
        known = self.encoder.vocabulary
        if known is not None and max(sampled.ids) >= known:
            return UNKNOWN
        said = self.encoder.tokenizer.decode(sampled.ids, skip_special_tokens=True)
        ended = sampled.ids[-1] in self.encoder.end_ids
        return AS_SAMPLED if (said.strip(), ended) == (text.strip(), sampled.ended) else CHANGED

    def without_end(self, sampled: Sampled | None, ids: Ids) -> Ids:
        """Ids of a response that was read as text, less an end token that it never had."""
        cut = sampled is not None and sampled.cut
        return ids[:-1] if cut and ids[-1] in self.encoder.end_ids else ids
