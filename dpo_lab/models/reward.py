"""Reward models: a language model's trunk with a scalar head, `r(x, y)`; ensembles of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from dpo_lab.data.batching import token_budget_batches
from dpo_lab.data.pairs import Text, answer_to
from dpo_lab.data.text_to_ids import Encoder, PromptResponse
from dpo_lab.data.token_ids import plain_ids
from dpo_lab.models.adapters import seeded
from dpo_lab.models.devices import resolve_device
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.loading import LanguageModel, known_ids
from dpo_lab.models.model_settings import Device
from dpo_lab.models.progress_bars import no_bars


class _RewardFunction(ABC):
    """Interface of a reward model or ensemble: rewards of text and of ids.

    Bradley-Terry fixes rewards only up to a function of the prompt: compare them within a prompt.
    """

    encoder: Encoder

    @abstractmethod
    def rewards_of_ids(
        self,
        sequences: Sequence[PromptResponse],
        token_budget: int = 8192,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Rewards of `(prompt, response)` ids, `(sequences,)`, without gradient, on the CPU.

        Args:
            sequences: Ids.
            token_budget: Most padded tokens in a forward pass.
            progress: Called with `(done, total)` responses.
        """

    def rewards_of(self, prompts: Sequence[Text], responses: Sequence[Text]) -> Tensor:
        """Rewards of responses, one to each prompt, text or messages, `(responses,)`."""
        encoded = self.encoder.encode(prompts, responses)
        return self.rewards_of_ids([(pair.prompt, pair.response) for pair in encoded])

    def __call__(self, prompt: str, response: str) -> float:
        """The reward of one response."""
        encodable = self.encoder.as_prompt(prompt)
        return self.rewards_of([encodable], [answer_to(encodable, response)]).item()


@dataclass
class RewardModel(_RewardFunction):
    """A `transformers` sequence-classification model with one label, and its tokenizer.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.tokenizer, known_ids(self.model))

    @property
    def head(self) -> nn.Module:
        """The layer on top of the trunk: hidden state to reward."""
        return self.model.score

    def rewards(self, sequences: Sequence[PromptResponse]) -> Tensor:
        """`r(x, y)` of `(prompt, response)` ids, `(sequences,)`, in one padded forward pass."""
        whole = [torch.tensor(prompt + plain_ids(response)) for prompt, response in sequences]
        lengths = torch.tensor([len(row) for row in whole])
        ids = nn.utils.rnn.pad_sequence(whole, True, self.encoder.pad_id)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        device = next(self.model.parameters()).device
        trunk = getattr(self.model, self.model.base_model_prefix)
        output = trunk(ids.to(device), attention_mask=mask.to(device), use_cache=False)
        # The class would find the last token by the padding id, which may also be the end token's.
        last = output.last_hidden_state[torch.arange(len(whole)), lengths - 1]
        return self.head(last).squeeze(-1).float()

    @torch.no_grad()
    def rewards_of_ids(self, sequences, token_budget=8192, progress=None) -> Tensor:
        """As `_RewardFunction.rewards_of_ids`."""
        lengths = [len(prompt) + len(response) for prompt, response in sequences]
        values, done = torch.zeros(len(sequences)), 0
        for group in token_budget_batches(lengths, token_budget):
            values[group] = self.rewards([sequences[index] for index in group]).cpu()
            done += len(group)
            if progress:
                progress(done, len(sequences))
        return values

    def save(self, folder: str | Path) -> None:
        """Write a folder that `AutoModelForSequenceClassification` and the lab can load.

        If the tokenizer pads with its end token, that class reads the reward of an answer before
        the end token, whereas the lab reads it at the end token.
        """
        with no_bars():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@dataclass
class RewardEnsemble(_RewardFunction):
    """The mean of several reward models that differ by seed.

    Its squared error is at most the average of the members' (Jensen); one member may have less.

    Source:
        Coste et al. 2023, "Reward model ensembles help mitigate overoptimization", section 3.3.
    """

    members: Sequence[RewardModel]

    def __post_init__(self) -> None:
        self.encoder = self.members[0].encoder

    def rewards_of_ids(self, sequences, token_budget=8192, progress=None) -> Tensor:
        """As `_RewardFunction.rewards_of_ids`, the mean over the members."""
        rewards = [
            model.rewards_of_ids(sequences, token_budget, progress) for model in self.members
        ]
        return torch.stack(rewards).mean(0)


def new_reward_model(language_model: LanguageModel, seed: int = 0) -> RewardModel:
    """A new reward model: a copy of a language model's trunk with a random head.

    Args:
        language_model: Source of the trunk's weights; it is not changed.
        seed: Seed of the head's weights.

    Raises:
        ValueError: If the model has an adapter, or `transformers` has no such class for it.
    """
    base = language_model.base
    if language_model.lora:
        raise ValueError(
            f"{language_model.name}: has a LoRA adapter, and a reward model starts from plain "
            "weights. Save it and load it again, which merges the adapter."
        )
    config = deepcopy(base.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = language_model.encoder.pad_id
    with seeded(language_model.device, seed):
        model = AutoModelForSequenceClassification.from_config(config)
    trunk = getattr(base, base.base_model_prefix)
    getattr(model, model.base_model_prefix).load_state_dict(trunk.state_dict())
    _check_head(model, language_model.name)
    disable_dropout(model)
    return RewardModel(model.to(language_model.device), language_model.tokenizer)


def _check_head(model: nn.Module, name: str | Path) -> None:
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ValueError(
            f"{name}: its sequence-classification class has no linear layer named 'score' to read "
            "a reward from. Use another architecture."
        )


def load_reward_model(folder: str | Path, device: Device = "auto") -> RewardModel:
    """Load what `RewardModel.save` wrote.

    Raises:
        OSError: If there is no model.
        ValueError: If it has more than one label, or no linear layer named `score`.
    """
    with no_bars():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    if model.config.num_labels != 1:
        raise ValueError(
            f"{folder}: gives {model.config.num_labels} numbers; a reward model gives one. "
            "Train one with num_labels=1."
        )
    _check_head(model, folder)
    disable_dropout(model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return RewardModel(model.to(resolve_device(device)), tokenizer)
