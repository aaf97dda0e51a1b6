"""What makes ids of a run's text: template, format, date and tokenizer, kept and compared."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from dpo_lab.data.pair_ids import TokenizedPair
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.config import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextRecord:
    """What a run's ids hang on beside the text.

    Attributes:
        template: Hash of the chat template; none without one.
        used: Whether it wrote the training prompts: `chat`, `plain`, or `chat and plain`.
        date: The date that it writes, where it writes one.
        tokenizer: Hash of the tokenizer, its added tokens and special ones among it.
        tokens: How many tokens it has.
    """

    template: str | None
    used: str
    date: str | None
    tokenizer: str
    tokens: int

    @classmethod
    def of(
        cls, policy: LanguageModel, config: TrainConfig, pairs: Iterable[TokenizedPair]
    ) -> TextRecord:
        """What a job's ids hang on."""
        text, tokenizer = policy.encoder.template.text, policy.tokenizer
        used = sorted({"chat" if pair.rendered else "plain" for pair in pairs})
        return cls(
            text and _hash(text),
            " and ".join(used),
            config.template_date,
            tokenizer_fingerprint(tokenizer),
            len(tokenizer),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in `environment.json`."""
        return asdict(self)

    def changed_since(self, begun: Mapping[str, Any]) -> str | None:
        """What is not as it was when a run began, in words; none if all of it is.

        Args:
            begun: What the run's `environment.json` says; a run of before this was recorded says
                nothing, which is warned of.
        """
        if not begun:
            logger.warning(
                "the run was begun before tokenizer and chat template were recorded: whether its "
                "text has the ids that it had then is not known."
            )
        now = self.as_dict()
        name = next((name for name in now if name in begun and begun[name] != now[name]), None)
        if name is None:
            return None
        if name == "template":
            return "the chat template"
        if name == "used":
            return f"whether the chat template is used ({begun[name]} then, {self.used} now)"
        if name == "date":
            return f"the date that the chat template writes ({begun[name]} then, {self.date} now)"
        return f"the tokenizer ({begun.get('tokens')} tokens then, {self.tokens} now)"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all that a tokenizer does: pieces, merges, added tokens, BOS, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        parts = json.loads(backend.to_str())
        # How a batch is cut and padded, which each call says for itself.
        parts = {k: v for k, v in parts.items() if k not in ("truncation", "padding")}
    else:
        added = {token: str(text) for token, text in tokenizer.added_tokens_decoder.items()}
        parts = {"vocabulary": tokenizer.get_vocab(), "added": added, "like": tokenizer("a b").data}
    special = tokenizer.special_tokens_map, tokenizer.all_special_ids
    return _hash(json.dumps([parts, special], sort_keys=True, default=str))


def with_template(policy: LanguageModel, config: TrainConfig) -> TrainConfig:
    """Give a model the template and the date of its run, and say in the configuration which.

    A template that writes the day on which it is used would write another one after a resume: the
    day on which the run begins is kept.
    """
    config = config.resolved()
    policy.use_template(config.chat_template, None)
    if not policy.encoder.template.writes_date:
        return replace(config, template_date=None)
    config = replace(config, template_date=config.template_date or date.today().isoformat())
    policy.use_template(config.chat_template, config.template_date)
    return config


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
