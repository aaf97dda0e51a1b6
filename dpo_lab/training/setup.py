"""From a configuration to a job: model, reference, tokens and reference log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.batching import PairSampler
from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.held_out import load_train_and_held_out, split_by_prompt
from dpo_lab.data.load_report import LoadReport
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.pairs import Text
from dpo_lab.data.preferences import Preferences, preferences_from_rows
from dpo_lab.data.tokenized_pairs import TokenizedPairs, tokenize_pairs
from dpo_lab.kernels.threads import threads_for
from dpo_lab.models.adapters import changes_nothing
from dpo_lab.models.devices import resolve_precision
from dpo_lab.models.dropout import disable_dropout, evaluation_mode
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.models.loading import LanguageModel, add_lora
from dpo_lab.models.pair_mass import ListedPairs
from dpo_lab.models.reference import CacheStats, Reference, reference_logps
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.sampling import Completion
from dpo_lab.models.scoring import LogpScorer, pair_logps
from dpo_lab.models.weights import weights_fingerprint
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.pairs import PairsWithReference
from dpo_lab.training.policy import ready_policy
from dpo_lab.training.text_record import TextRecord, with_template

DEFAULT_MICRO_BATCH_TOKENS = {"cpu": 640}

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""


def naming(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """The same progress for a part of the work that does not know its name."""
    return progress and (lambda done, total: progress(what, done, total))


@dataclass
class Job:
    """A run made ready: nothing is trained yet, and the policy equals the reference.

    Attributes:
        config: The configuration, with every `None` that could be resolved resolved.
        live: Beta and peak learning rate as they are now; training changes them.
        policy: The model that will be trained.
        reference: The policy as it is now, frozen.
        scorer: Log-probabilities of the policy.
        fingerprint: Of the reference's weights.
        train: Training pairs.
        held_out: Held-out pairs; none if nothing is held out.
        prompts: Held-out prompts, each once, in the shape in which the model gets them.
        score: Ground-truth score of `(prompt, response)`, where there is one.
        load_reports: What was read and skipped.
        data_fingerprint: Hash of the training pairs' text.
        held_out_fingerprint: The same of the held-out pairs.
        text: What made ids of it.
        prompt_kind: What one of the prompts is, for people; whoever puts others in says so.
        cache_use: Reference values computed and read.
        reference_answers: Greedy answers of the reference, once an evaluation has needed them.
        listed_pairs: The held-out pairs among all answers, once an evaluation has listed these.
        restore_dropout: Gives the policy's dropouts their probabilities again.
    """

    config: TrainConfig
    live: LiveSettings
    policy: LanguageModel
    reference: Reference
    scorer: LogpScorer
    fingerprint: str
    train: PairsWithReference
    held_out: PairsWithReference | None
    prompts: list[Text]
    score: RewardFn | None
    load_reports: list[LoadReport]
    data_fingerprint: str
    held_out_fingerprint: str
    text: TextRecord
    prompt_kind: str = "held-out prompt"
    cache_use: CacheStats = field(default_factory=lambda: CacheStats(0, 0, 0))
    reference_answers: list[Completion] = field(default_factory=list)
    listed_pairs: ListedPairs | None = None
    restore_dropout: Callable[[], None] = lambda: None

    def hand_back(self) -> None:
        """Give the policy's dropouts their probabilities again; it stays in evaluation mode."""
        self.policy.model.eval()
        self.restore_dropout()


def prepare(
    config: TrainConfig,
    *,
    model: AnyModel | None = None,
    data: Preferences | Iterable[Mapping] | None = None,
    score: RewardFn | None = None,
    keep_reference: bool | None = None,
    cache: ReferenceCache | None = None,
    progress: Progress | None = None,
) -> Job:
    """Load, tokenise and score with the reference.

    Args:
        config: The configuration.
        model: A model already loaded, instead of `config.model`, alone or as `(model, tokenizer)`.
            It is trained in place, and the reference is what it is now. Weights without
            `requires_grad` stay as they are. Its dropout is off until the run ends; it is left in
            evaluation mode.
        data: Pairs, rows or a `datasets.Dataset`, instead of `config.data`.
        score: Ground-truth score of `(prompt, response)`, instead of the data set's own.
        keep_reference: Whether the reference can be asked while the policy is trained and after,
            which takes a copy of weights that are all trained; by default where the run evaluates,
            or there is a score for its answers.
        cache: Where reference values are kept; by default the lab's cache on disk.
        progress: Called with what is being done, how much is done and how much there is.

    Returns:
        The job; `dpo_lab.training.loop.train` runs it.

    Raises:
        FileNotFoundError: If model or data are not to be found.
        ValueError: If data, model or configuration do not fit together.
    """
    train, held_out = load_data(config, data)
    pair_order(config, len(train))  # refuses a batch that is too large
    policy = ready_policy(config, model)
    restore_dropout = disable_dropout(policy.model)
    config = replace(
        with_template(policy, config),
        precision=resolve_precision(config.precision, policy.device),
        micro_batch_tokens=micro_batch_tokens(config, policy.device),
    )
    tokens = [
        tokenize(config, some, policy.tokenizer, policy.encoder.vocabulary)
        for some in (train, held_out)
        if len(some)
    ]
    fingerprint = weights_fingerprint(policy.base)
    # The reference is scored before any adapter is added: by the very weights that are hashed; and
    # on as many threads as the run has, which decide the last bits of its values.
    with threads_for(policy.model):
        scored, use = _score_reference(
            config, policy, fingerprint, tokens, cache or ReferenceCache(), progress
        )
    if config.lora_rank is not None:
        policy = add_lora(
            policy,
            config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            seed=config.seed,
        )
    if config.gradient_checkpointing:
        policy.base.gradient_checkpointing_enable({"use_reentrant": False})
    evaluation_mode(policy.model, config.gradient_checkpointing)
    scorer = LogpScorer.probed(policy, config.precision)
    reference = Reference(scorer, copied=policy.lora and not changes_nothing(policy.model))
    score = score or train.score
    if bool(config.eval_every or score) if keep_reference is None else keep_reference:
        reference.keep()
    return Job(
        config=config,
        live=LiveSettings.of(config),
        policy=policy,
        reference=reference,
        scorer=scorer,
        fingerprint=fingerprint,
        train=scored[0],
        held_out=scored[1] if len(scored) > 1 else None,
        prompts=_prompts(config, policy, held_out, tokens[1]) if len(held_out) else [],
        score=score,
        load_reports=[some.report for some in (train, held_out) if len(some)],
        data_fingerprint=train.fingerprint(),
        held_out_fingerprint=held_out.fingerprint(),
        text=TextRecord.of(policy, config, tokens[0]),
        cache_use=use,
        restore_dropout=restore_dropout,
    )


def micro_batch_tokens(config: TrainConfig, device: torch.device) -> int:
    """Most tokens in a forward and backward pass on a device."""
    return config.micro_batch_tokens or DEFAULT_MICRO_BATCH_TOKENS.get(device.type, 8192)


def load_data(
    config: TrainConfig, data: Preferences | Iterable[Mapping] | None = None
) -> tuple[Preferences, Preferences]:
    """Training and held-out pairs, from the configuration or from memory.

    Of those that are not held out, the first `config.limit` are trained on.
    """
    if data is None:
        return load_train_and_held_out(
            config.data,
            split=config.split,
            held_out=config.held_out,
            seed=config.seed,
            columns=config.columns,
            on_bad_rows=config.on_bad_rows,
            limit=config.limit,
            max_gz_gb=config.max_gz_gb,
        )
    if not isinstance(data, Preferences):
        data = preferences_from_rows(data, columns=config.columns, on_bad_rows=config.on_bad_rows)
    return split_by_prompt(data, config.held_out, config.seed, config.limit)


def tokenize(
    config: TrainConfig,
    pairs: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int | None = None,
) -> TokenizedPairs:
    """Token ids of the pairs, cut as the configuration says, that are below `vocabulary`."""
    return tokenize_pairs(
        pairs,
        tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        prompt_format=config.prompt_format,
        vocabulary=vocabulary,
        on_bad_rows=config.on_bad_rows,
    )


def pair_order(config: TrainConfig, pairs: int) -> PairSampler:
    """Which of so many training pairs make each step of a run."""
    return PairSampler(pairs, config.batch_pairs, config.seed, config.total_pairs(pairs))


def _prompts(
    config: TrainConfig, policy: LanguageModel, held_out: Preferences, tokens: TokenizedPairs
) -> list[Text]:
    """Prompts of the held-out pairs that can be used, each once, as the model gets them."""
    kept = {pair.row for pair in tokens}
    usable = replace(held_out, pairs=tuple(pair for pair in held_out if pair.row in kept))
    return policy.encoder.as_prompts(usable.prompts, config.prompt_format)


def _score_reference(
    config: TrainConfig,
    policy: LanguageModel,
    fingerprint: str,
    tokens: list[TokenizedPairs],
    cache: ReferenceCache,
    progress: Progress | None,
) -> tuple[list[PairsWithReference], CacheStats]:
    """Reference values of the pairs that the run will use."""
    used = [(tokens[0], _trained_on(config, len(tokens[0])))]
    if len(tokens) > 1 and config.eval_pairs:
        held_out = replace(tokens[1], pairs=tokens[1].pairs[: config.eval_pairs])
        used.append((held_out, list(range(len(held_out)))))
    cut = config.ld_alpha is not None
    parts = [PairSequences.of([some[i] for i in indices], cut) for some, indices in used]
    values, use = reference_logps(
        LogpScorer.probed(policy, config.precision),
        fingerprint,
        [sequence for part in parts for sequence in part.all],
        cache=cache,
        token_budget=config.micro_batch_tokens,
        progress=naming(progress, "reference"),
    )
    scored = []
    sizes = [len(part.all) for part in parts]
    for (some, indices), part, logps in zip(used, parts, values.split(sizes), strict=True):
        own = pair_logps(part, logps, config.ld_alpha)
        scored.append(PairsWithReference.of(some, indices, own))
    return scored, use


def _trained_on(config: TrainConfig, pairs: int) -> list[int]:
    """Indices of the training pairs that some step of the run uses."""
    if config.total_pairs(pairs) >= pairs:
        return list(range(pairs))
    order = pair_order(config, pairs)
    steps = range(config.total_steps(pairs))
    return sorted(index for step in steps for index in order.batch(step))
