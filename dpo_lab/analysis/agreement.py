"""How far a copy of a policy (merged, rounded, quantised) is from it: KL, largest error, answers.

Both are run by plain `transformers`, one answer at a time, without padding, packing or a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dpo_lab.kernels.chunked_stats import compare_tokens
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.sampling import Completion, sample, share_cut
from dpo_lab.objective.kl import Estimate


@dataclass(frozen=True)
class Asked:
    """What a policy answers to probes.

    Attributes:
        sampled: Answers drawn at temperature 1.
        greedy: Its greedy answer to each prompt.
    """

    sampled: Sequence[Completion]
    greedy: Sequence[Completion]

    @classmethod
    def of(
        cls,
        policy: LanguageModel,
        prompts: Sequence[tuple[int, ...]],
        answers: int,
        max_new_tokens: int | None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Asked:
        """Ask a policy.

        Args:
            policy: The policy.
            prompts: Ids of the prompts.
            answers: How many answers to sample, to one prompt after the other, again and again.
            max_new_tokens: Most tokens of an answer.
            seed: Seed of the drawn answers.
            progress: Called with `(done, total)` answers.
        """
        total = answers + len(prompts)
        options = {"max_new_tokens": max_new_tokens, "seed": seed, "batch_size": 16}

        def after(before: int) -> Callable[[int, int], None] | None:
            return progress and (lambda done, _: progress(before + done, total))

        asked = list(islice(cycle(prompts), answers))
        drawn = sample(policy, asked, progress=after(0), **options)
        greedy = sample(policy, prompts, temperature=0, progress=after(answers), **options)
        return cls(drawn, greedy)


@dataclass(frozen=True)
class Agreement:
    """A copy of a policy beside it; KLs are of the policy to the copy, in nats.

    Attributes:
        loaded: How the copy was loaded, in words.
        kl_per_token: KL of the next token, exact over the vocabulary, mean over the tokens of
            answers that the policy sampled.
        kl_per_token_stderr: Its standard error, for prompts like these.
        kl_per_answer: The same, summed over an answer, mean over answers. Of answers that were cut
            it counts up to the cut.
        kl_per_answer_stderr: Its standard error, for prompts like these.
        mean_difference: Mean absolute difference of a sampled token's log-probability.
        largest: The largest such difference.
        answers: Number of sampled answers.
        tokens: Number of their tokens.
        cut: Share of the sampled answers that were cut at the length limit.
        greedy: Number of greedy answers.
        greedy_differ: Share of them in which the copy takes another token somewhere.
        first_difference: Median place, from 1, of the first such token; None without any.
    """

    loaded: str
    kl_per_token: float
    kl_per_token_stderr: float
    kl_per_answer: float
    kl_per_answer_stderr: float
    mean_difference: float
    largest: float
    answers: int
    tokens: int
    cut: float
    greedy: int
    greedy_differ: float
    first_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values; None for what is not a number, as a standard error of one prompt."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@torch.no_grad()
def compare_with_copy(
    policy: LanguageModel,
    copy: nn.Module,
    asked: Asked,
    loaded: str,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Measure how far a copy of a policy is from it.

    The copy's greedy answer first differs from the policy's where, after the same tokens, its
    likeliest token is another one; so it need not generate.

    Args:
        policy: The policy.
        copy: A `transformers` model with the same ids.
        asked: Answers of the policy.
        loaded: How the copy was loaded, in words.
        progress: Called with `(done, total)` answers.

    Returns:
        The measurements. The mean per token is a ratio of sums over answers, whose standard error
        is that of its linearised residuals, clustered by prompt.

    Raises:
        ValueError: If the copy's log-probabilities are no numbers.
    """
    kls, lengths, differences, firsts = [], [], [], []
    total = len(asked.sampled) + len(asked.greedy)
    for done, answer in enumerate(asked.sampled, 1):
        ours, theirs = (_logits(model, answer) for model in (policy.model, copy))
        targets = torch.tensor(answer.ids, device=ours.device)
        tokens = compare_tokens(partial(_rows, ours), partial(_rows, theirs), targets, len(ours[0]))
        if not tokens.kl.isfinite().all():
            raise ValueError(
                f"{loaded}: gives log-probabilities that are no numbers. Take bfloat16 or float32: "
                "float16 overflows above 65504."
            )
        kls.append(tokens.kl.sum().item())
        lengths.append(len(answer.ids))
        differences.append(tokens.log_ratio.abs().cpu())
        if progress:
            progress(done, total)
    for done, answer in enumerate(asked.greedy, len(asked.sampled) + 1):
        ours, theirs = (_logits(model, answer).argmax(-1) for model in (policy.model, copy))
        differ = (ours != theirs).nonzero().flatten()
        if len(differ):
            firsts.append(int(differ[0]) + 1)
        if progress:
            progress(done, total)
    prompts = [answer.prompt for answer in asked.sampled]
    kl, length = torch.tensor(kls), torch.tensor(lengths, dtype=torch.float64)
    per_answer = Estimate.of(kl, prompts)
    ratio = (kl.double().sum() / length.sum()).item()
    residuals = Estimate.of(kl - ratio * length, prompts)
    return Agreement(
        loaded=loaded,
        kl_per_token=ratio,
        kl_per_token_stderr=residuals.stderr / length.mean().item(),
        kl_per_answer=per_answer.mean,
        kl_per_answer_stderr=per_answer.stderr,
        mean_difference=torch.cat(differences).mean().item(),
        largest=torch.cat(differences).max().item(),
        answers=len(kls),
        tokens=sum(lengths),
        cut=share_cut(asked.sampled),
        greedy=len(asked.greedy),
        greedy_differ=len(firsts) / len(asked.greedy),
        first_difference=median(firsts) if firsts else None,
    )


def _logits(model: nn.Module, answer: Completion) -> Tensor:
    """Logits of an answer's tokens, `(tokens, vocabulary)`."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*answer.prompt, *answer.ids]], device=device)
    return model(input_ids=ids, use_cache=False).logits[0, len(answer.prompt) - 1 : -1]


def _rows(logits: Tensor, rows: slice) -> Tensor:
    """Some tokens' logits, in float64 where the device has it: differences are small."""
    return logits[rows].float() if logits.device.type == "mps" else logits[rows].double()
