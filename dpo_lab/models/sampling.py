"""Sampling of completions from a model, in batches, reproducible by seed."""

from __future__ import annotations

import logging
import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.sampled import Sampled
from dpo_lab.models.draws import Choose, Chosen, chooser, reported
from dpo_lab.models.dropout import evaluating
from dpo_lab.models.layouts import TOLERANCE
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import Answers, new_tokens

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""Held while a model's generation defaults are replaced."""


@dataclass(frozen=True)
class Completion:
    """An answer of a model.

    Attributes:
        prompt: Ids of the prompt.
        ids: Ids of the answer, with its end token if it ended.
        text: The answer as text, without special tokens and outer white space.
        ended: Whether the model ended it with an end token, before the length limit.
        tokenizer: `Encoder.fingerprint` of the tokenizer that the ids belong to.
        logps: Log-probability of each id in the distribution it was drawn from, nats; empty unless
            asked for.
    """

    prompt: Ids
    ids: Ids
    text: str
    ended: bool
    tokenizer: str = ""
    logps: tuple[float, ...] = ()

    @property
    def sampled(self) -> Sampled:
        """The sampled ids, as a row of pairs keeps them so that exactly these are scored."""
        return Sampled(self.ids, self.ended, self.tokenizer)


def share_cut(completions: Iterable[Completion]) -> float:
    """Share of answers that were cut at the length limit; NaN without answers."""
    cut = [not completion.ended for completion in completions]
    return sum(cut) / len(cut) if cut else math.nan


@torch.no_grad()
def sample(
    language_model: LanguageModel,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    batch_size: int = 64,
    with_logps: bool = False,
    progress: Callable[[int, int], None] | None = None,
    each_token: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Complete every prompt, by sampling from the model itself or greedily.

    No top-p, no top-k, no repetition penalty: at temperature 1 the answers are draws from
    `pi(y|x)`, which is what a KL needs. The model's own generation defaults are not used. Each
    answer has random numbers of its own, so it does not depend on the other prompts in the call.

    Args:
        language_model: The model to sample from.
        prompts: Ids of the prompts.
        max_new_tokens: Most tokens of an answer, including the end token; by default `new_tokens`
            of the model, within which most answers end.
        temperature: 1 samples from the model; 0 is greedy.
        seed: Random seed; two equal models give the same answers.
        numbers: A number for each prompt, which with the seed decides its random numbers; by
            default its position.
        batch_size: Prompts per batch.
        with_logps: Whether to keep the log-probabilities of the answers' tokens.
        progress: Called with `(done, total)` prompts.
        each_token: Called with the position of a prompt and the next id of its answer, as soon as
            it is drawn; of an answer that has ended, padding follows. What it raises ends the call.

    Returns:
        One completion per prompt, in order.

    Raises:
        ValueError: If temperature or max_new_tokens is out of range, or the model has too few
            positions.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature={temperature}: must be a number >= 0. 0 is greedy, 1 the model itself."
        )
    if max_new_tokens is None:
        max_new_tokens = new_tokens(language_model.name)
    if max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}: an answer holds at least its end token. "
            "Give at least 1."
        )
    # Sort by length, since prompts of equal length need no padding; answers are returned in order.
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    answers: dict[int, Completion] = {}
    numbers = range(len(prompts)) if numbers is None else numbers
    with _plain_generation(language_model.base):
        if language_model.answers is None:
            language_model.answers = _find_way(language_model)
        batches = list(_batches(language_model, prompts, order, batch_size))
        for indices in language_model.in_step(batches):
            batch = [prompts[index] for index in indices] or [(0,)]  # others answer their prompts
            ours = [numbers[index] for index in indices] or [0]
            device = language_model.device
            choose = chooser(seed, ours, max_new_tokens, temperature, device)
            if each_token:
                choose = reported(choose, indices, each_token)
            try:
                keep = temperature if with_logps else None
                done = _complete(language_model, batch, max_new_tokens, choose, keep)
            except IndexError as error:
                config = language_model.base.config.get_text_config()
                raise ValueError(
                    f"max_new_tokens={max_new_tokens}: with a prompt of {len(batch[-1])} tokens, "
                    f"more than {language_model.name!r} has positions for "
                    f"({getattr(config, 'max_position_embeddings', 'a fixed number')}). Give fewer."
                ) from error
            answers.update(zip(indices, done[: len(indices)], strict=True))
            if progress:
                progress(len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


@contextmanager
def _plain_generation(model: nn.Module) -> Iterator[None]:
    """Generate from the model's plain distribution, with its cache.

    `generate` would take settings that its caller does not pass (such as a repetition penalty)
    from the model's own defaults, so these are replaced.
    """
    with _ONE_AT_A_TIME:
        defaults = model.generation_config
        model.generation_config = GenerationConfig()
        try:
            with evaluating(model):
                yield
        finally:
            model.generation_config = defaults


def _batches(
    language_model: LanguageModel, prompts: Sequence[Ids], order: list[int], batch_size: int
) -> Iterator[list[int]]:
    """Indices of the prompts in each batch."""
    lengths = [len(prompts[index]) for index in order]
    padded, start = language_model.answers == "padded", 0
    while start < len(order):
        end = min(start + batch_size, len(order))
        end = end if padded else min(end, bisect_right(lengths, lengths[start]))
        yield order[start:end]
        start = end


def _find_way(language_model: LanguageModel) -> Answers:
    """The fastest way of generating that agrees with plain forward passes of the model."""
    vocabulary = language_model.base.config.get_text_config().vocab_size
    ids = tuple((7 * place * place + 3 * place + 3) % vocabulary for place in range(16))
    name, tolerance = language_model.name, TOLERANCE["bfloat16"]
    if language_model.base.dtype == torch.float32:
        tolerance = TOLERANCE["float32"]
    try:
        expected, difference = _first_steps(language_model, [ids[:5], ids[5:10]])
        if difference <= tolerance:
            _, difference = _first_steps(language_model, [ids[:5], ids[5:]], expected)
            if difference <= tolerance:
                return "padded"
            logger.warning(
                "%s: answers are drawn for prompts of one length at a time, because padding "
                "changes its log-probabilities by %.1e nats.",
                *(name, difference),
            )
            return "of one length"
        reason = f"its cache changes its log-probabilities by {difference:.1e} nats"
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
    logger.warning("%s: answers are drawn without a cache, more slowly (%s).", name, reason)
    return "without cache"


def _first_steps(
    language_model: LanguageModel, prompts: list[Ids], expected: Tensor | None = None
) -> tuple[Tensor, float]:
    """Log-probabilities after the first prompt by plain passes, and how far `generate` is off.

    Returns:
        `(2, vocabulary)`, of the next token and the one after the likeliest; largest error. Nats.
    """
    base = language_model.base
    settings = GenerationConfig(
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=language_model.encoder.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    output = base.generate(**_left_padded(language_model, prompts), generation_config=settings)
    generated = torch.stack([logits[0] for logits in output.logits]).float().log_softmax(-1)
    if expected is None:
        ids = [*prompts[0], generated[0].argmax().item()]
        alone = base(input_ids=torch.tensor([ids], device=base.device), use_cache=False)
        expected = alone.logits[0, -2:].float().log_softmax(-1)
    return expected, (generated - expected).abs().max().item()


def _without_cache(
    language_model: LanguageModel,
    prompts: list[Ids],
    max_new_tokens: int,
    choose: Chosen,
) -> Tensor:
    """Prompts of equal length with their answers, by one full forward pass per token."""
    base, device = language_model.base, language_model.device
    ends = torch.tensor(language_model.encoder.end_ids, device=device)
    rows, ended = torch.tensor(prompts, device=device), torch.zeros(len(prompts), device=device) > 0
    for _ in range(max_new_tokens):
        scores = choose(rows, base(input_ids=rows, use_cache=False).logits[:, -1].float())
        drawn = scores.argmax(-1).masked_fill(ended, language_model.encoder.pad_id)
        rows, ended = torch.cat([rows, drawn[:, None]], dim=1), ended | torch.isin(drawn, ends)
        if not language_model.any_goes_on(not ended.all()):
            break
    return rows


def _left_padded(language_model: LanguageModel, prompts: list[Ids]) -> dict[str, Tensor]:
    pad_id, width = language_model.encoder.pad_id, max(map(len, prompts))
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = language_model.device
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _complete(
    language_model: LanguageModel,
    prompts: list[Ids],
    max_new_tokens: int,
    choose: Choose,
    keep_at: float | None,
) -> list[Completion]:
    encoder, width = language_model.encoder, max(map(len, prompts))
    chosen = Chosen(choose, width, keep_at)
    if language_model.answers == "without cache":
        output = _without_cache(language_model, prompts, max_new_tokens, chosen)
    else:
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(encoder.end_ids),
            pad_token_id=encoder.pad_id,
        )
        output = language_model.base.generate(
            **_left_padded(language_model, prompts),
            generation_config=settings,
            logits_processor=[chosen],
            synced_gpus=language_model.shards is not None,
        )
    kept = chosen.logps and torch.stack(chosen.logps, dim=1).tolist()
    logps = kept or [[]] * len(prompts)
    return [
        _completion(language_model, prompt, row[width:].tolist(), each)
        for prompt, row, each in zip(prompts, output, logps, strict=True)
    ]


def _completion(
    language_model: LanguageModel, prompt: Ids, row: list[int], logps: list[float]
) -> Completion:
    ends = [at for at, token in enumerate(row) if token in language_model.encoder.end_ids]
    ids = tuple(row[: ends[0] + 1] if ends else row)
    text = language_model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    fingerprint = language_model.encoder.fingerprint
    kept = tuple(logps[: len(ids)])
    return Completion(tuple(prompt), ids, text, bool(ends), fingerprint, kept)
