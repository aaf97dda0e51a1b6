"""Record of how a run's text became token ids (tokenizer, chat template), compared on resume."""

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
    """What a run's token ids depend on, apart from the text.

    Attributes:
        template: Hash of the chat template; None without one.
        used: Format of the training prompts: `chat` (with it), `plain`, or `chat and plain`.
        date: The date that the template writes, if it writes one.
        tokenizer: Hash of the tokenizer, including added and special tokens.
        tokens: Number of tokens of the tokenizer.
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
        """The record of a job's policy, configuration and pairs."""
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
        """Description of the first change since a run started; None if nothing changed.

        Args:
            begun: The record in the run's `environment.json`; empty for runs of earlier versions,
                which a warning says.
        """
        if not begun:
            logger.warning(
                "the run was begun before tokenizer and chat template were recorded: changes to "
                "its token ids cannot be detected."
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
    """Hash of all that defines a tokenizer: pieces, merges, added tokens, special tokens, BOS."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        parts = json.loads(backend.to_str())
        # Without truncation and padding, which each call sets itself.
        parts = {k: v for k, v in parts.items() if k not in ("truncation", "padding")}
    else:
        added = {token: str(text) for token, text in tokenizer.added_tokens_decoder.items()}
        parts = {"vocabulary": tokenizer.get_vocab(), "added": added, "like": tokenizer("a b").data}
    special = tokenizer.special_tokens_map, tokenizer.all_special_ids
    return _hash(json.dumps([parts, special], sort_keys=True, default=str))


def with_template(policy: LanguageModel, config: TrainConfig) -> TrainConfig:
    """Set the run's chat template and date in a model, and return the configuration with them.

    A template that writes the current date would write another date after a resume, so the date on
    which the run started is kept.
    """
    config = config.resolved()
    policy.use_template(config.chat_template, None, config.thinking)
    if not policy.encoder.template.writes_date:
        return replace(config, template_date=None)
    config = replace(config, template_date=config.template_date or date.today().isoformat())
    policy.use_template(config.chat_template, config.template_date, config.thinking)
    return config


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
