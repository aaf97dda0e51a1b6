"""`prepare`: from a configuration to a `Job` with model, reference, tokens and reference values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.held_out import load_train_and_held_out, split_by_prompt
from dpo_lab.data.pair_sequences import PairSequences
from dpo_lab.data.pairs import Text
from dpo_lab.data.preferences import Preferences, preferences_from_rows, with_thumbs
from dpo_lab.data.template_settings import use_template
from dpo_lab.data.tokenized_pairs import TokenizedPairs, tokenize_pairs
from dpo_lab.kernels.threads import threads_for
from dpo_lab.models.adapters import changes_nothing
from dpo_lab.models.devices import resolve_device, resolve_precision
from dpo_lab.models.dropout import disable_dropout
from dpo_lab.models.handed_over import AnyModel
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.model_settings import Strategy
from dpo_lab.models.processes import Processes, join_processes
from dpo_lab.models.reference import CacheStats, Reference, reference_logps
from dpo_lab.models.reference_cache import ReferenceCache
from dpo_lab.models.reward import load_reward_model
from dpo_lab.models.scoring import LogpScorer, pair_logps
from dpo_lab.models.sharding import Shards
from dpo_lab.models.weights import weights_fingerprint
from dpo_lab.objective.registry import find_loss
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.data_checks import with_scores
from dpo_lab.training.job import Job, Progress, naming
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.methods import IN_PYTHON, TRUTH
from dpo_lab.training.pairs import PairsWithReference
from dpo_lab.training.policy import adapted_policy, ready_policy
from dpo_lab.training.step_plan import StepPlan, plan_of
from dpo_lab.training.text_record import TextRecord, with_template

DEFAULT_MICRO_BATCH_TOKENS = {"cpu": 640}


def prepare(
    config: TrainConfig,
    *,
    model: AnyModel | None = None,
    data: Preferences | Iterable[Mapping] | None = None,
    held_out: Preferences | None = None,
    reward_fn: RewardFn | None = None,
    training_reward: RewardFn | None = None,
    keep_reference: bool | None = None,
    cache: ReferenceCache | None = None,
    progress: Progress | None = None,
    strategy: Strategy = "ddp",
    plan: Callable[[TrainConfig, int], StepPlan] = StepPlan,
) -> Job:
    """Load model and data, tokenise the pairs, and score them with the reference.

    Args:
        config: The configuration.
        model: A model already loaded, instead of `config.model`, alone or as `(model, tokenizer)`.
            It is trained in place, and its present state is the reference. Weights without
            `requires_grad` are not trained. Its dropout is off until the run ends; it is left in
            evaluation mode.
        data: Pairs, rows or a `datasets.Dataset`, instead of `config.data`.
        held_out: Held-out pairs, instead of a share of the prompts of `data`.
        reward_fn: Ground-truth reward of `(prompt, response)`, instead of the data set's own.
        training_reward: What rates the policy's own answers in training, instead of what
            `config.reward` names.
        keep_reference: Whether the reference stays usable during and after training, which in full
            fine-tuning takes a copy of the weights; by default if the run evaluates, or there is a
            score for its answers, or the method samples.
        cache: Cache of reference values; by default the lab's cache on disk.
        progress: Called with the current work, how much is done, and the total.
        strategy: What several processes divide: with `ddp` the pairs of each step, with `fsdp` the
            weights as well, for a model that one device does not hold; it is loaded on the CPU.
        plan: Makes the plan of the steps, from the configuration and the number of pairs.

    Returns:
        The job; `dpo_lab.training.loop.train` runs it.

    Raises:
        FileNotFoundError: If model or data are not found.
        ValueError: If data, model or configuration do not fit together, or the method needs a
            reward and there is none.
    """
    processes = join_processes()
    train, held_out = load_data(config, data, held_out)
    train, held_out = (with_scores(pairs, config.loss_function) for pairs in (train, held_out))
    reward_fn = reward_fn or train.reward_fn
    if config.on_policy and training_reward not in (None, reward_fn) and config.reward == TRUTH:
        config = replace(config, reward=IN_PYTHON)
    training_reward = training_reward or _training_reward(config, reward_fn)
    plan_of(plan, config, train.pairs).batch(0)  # raises if a batch is too large
    divides = strategy == "fsdp"
    if divides and config.quantize:
        raise ValueError(
            f"quantize={config.quantize!r}: quantised weights are not divided among processes. "
            "Leave --strategy out: each process then holds all of them."
        )
    by_name = model is None or isinstance(model, str | Path)
    policy = ready_policy(config, model, "cpu" if divides and by_name else None)
    device = resolve_device(config.device) if divides and by_name else policy.device
    restore_dropout = disable_dropout(policy.model)
    config = replace(
        with_template(policy, config),
        precision=resolve_precision(config.precision, device),
        micro_batch_tokens=micro_batch_tokens(config, device),
    )
    splits = [pairs for pairs in (train, held_out) if len(pairs)]
    vocabulary = policy.encoder.vocabulary
    tokens = [tokenize(config, pairs, policy.tokenizer, vocabulary) for pairs in splits]
    fingerprint = weights_fingerprint(policy.base)
    facts = fingerprint, train.fingerprint(), held_out.fingerprint(), config.as_dict()
    for what, fact in zip(("weights", "data", "held-out data", "settings"), facts, strict=True):
        processes.agree(what, fact)
    policy = adapted_policy(config, policy)
    copied = policy.lora and not changes_nothing(policy.model)
    if divides:
        policy.shards = Shards.of(policy.model, processes, device)
    scorer = LogpScorer.probed(policy, config.precision)
    reference = Reference(scorer, copied)
    # With the run's number of threads, which determines the last bits of the values.
    with threads_for(policy.model), reference.at_start() as frozen:
        scored, use = _score_reference(
            config, frozen, fingerprint, tokens, processes, cache, progress, plan
        )
    needed = bool(config.eval_every or reward_fn) if keep_reference is None else keep_reference
    # A step of KTO scores with it.
    if needed or config.on_policy or config.loss_function is find_loss("kto"):
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
        reward_fn=reward_fn,
        training_reward=training_reward,
        train_prompts=_train_prompts(config, policy, train, tokens[0]),
        load_reports=[pairs.report for pairs in splits],
        data_fingerprint=train.fingerprint(),
        held_out_fingerprint=held_out.fingerprint(),
        text=TextRecord.of(policy, config, tokens[0]),
        cache_use=use,
        plan=plan,
        restore_dropout=restore_dropout,
        processes=processes,
    )


def micro_batch_tokens(config: TrainConfig, device: torch.device) -> int:
    """Most tokens in a forward and backward pass on a device."""
    return config.micro_batch_tokens or DEFAULT_MICRO_BATCH_TOKENS.get(device.type, 8192)


def load_data(
    config: TrainConfig,
    data: Preferences | Iterable[Mapping] | None = None,
    held_out: Preferences | None = None,
) -> tuple[Preferences, Preferences]:
    """Training and held-out pairs, from the configuration or from memory.

    Of the pairs that are not held out, only the first `config.limit` are used for training.
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
            keep_ties=config.tie_weight > 0,
            ranked_pairs=config.ranked_pairs,
            thumbs=config.thumbs,
        )
    if not isinstance(data, Preferences):
        data = preferences_from_rows(
            data,
            columns=config.columns,
            on_bad_rows=config.on_bad_rows,
            keep_ties=config.tie_weight > 0,
            ranked_pairs=config.ranked_pairs,
            thumbs=config.thumbs,
        )
    else:
        data = with_thumbs(data, config.thumbs)
    if held_out is not None:
        return replace(data, pairs=data.pairs[: config.limit]), held_out
    return split_by_prompt(data, config.held_out, config.seed, config.limit)


def tokenize(
    config: TrainConfig,
    pairs: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int | None = None,
) -> TokenizedPairs:
    """Token ids of the pairs, cut to the configured lengths; ids must be below `vocabulary`."""
    return tokenize_pairs(
        pairs,
        tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        prompt_format=config.prompt_format,
        score_turns=config.score_turns,
        vocabulary=vocabulary,
        on_bad_rows=config.on_bad_rows,
    )


def _prompts(
    config: TrainConfig, policy: LanguageModel, held_out: Preferences, tokens: TokenizedPairs
) -> list[Text]:
    """Prompts of the usable held-out pairs, each once, in the form in which the model gets them."""
    kept = {pair.row for pair in tokens}
    usable = replace(held_out, pairs=tuple(pair for pair in held_out if pair.row in kept))
    return policy.encoder.as_prompts(usable.prompts, config.prompt_format)


def _train_prompts(
    config: TrainConfig, policy: LanguageModel, train: Preferences, tokens: TokenizedPairs
) -> list[Text]:
    """The prompt of each tokenised pair, in the form in which the model gets it."""
    prompts = {pair.row: pair.prompt for pair in train}
    return [policy.encoder.as_prompt(prompts[pair.row], config.prompt_format) for pair in tokens]


def _training_reward(config: TrainConfig, reward_fn: RewardFn | None) -> RewardFn | None:
    """What rates the policy's own answers, if the method samples any.

    Raises:
        ValueError: If nothing does.
    """
    if not config.on_policy:
        return None
    if config.reward == IN_PYTHON:
        raise ValueError(
            f"reward={IN_PYTHON}: this run's answers were rated by what prepare or run_job was "
            "given. Give it again (training_reward=...), or begin another run."
        )
    if config.reward != TRUTH:
        try:
            reward = load_reward_model(config.reward, config.device)
            use_template(reward.tokenizer, thinking=config.thinking)
            return reward
        except (OSError, ValueError) as error:
            raise ValueError(
                f"reward={config.reward}: no reward model can be loaded from there ({error}). "
                "Train one with 'dpo-lab reward-model train', or give the folder of one."
            ) from error
    if reward_fn is None:
        raise ValueError(
            f"reward={TRUTH}: data {config.data!r} has no score of its own for the policy's "
            f"answers, which method {config.method} needs. Give a reward model (--reward FOLDER, "
            "from 'dpo-lab reward-model train'), or a reward_fn in Python."
        )
    return reward_fn


def _score_reference(
    config: TrainConfig,
    scorer: LogpScorer,
    fingerprint: str,
    tokens: list[TokenizedPairs],
    processes: Processes,
    cache: ReferenceCache | None,
    progress: Progress | None,
    plan: Callable[[TrainConfig, int], StepPlan],
) -> tuple[list[PairsWithReference], CacheStats]:
    """Reference values of the pairs that the run will use."""
    ours = [] if config.on_policy else _trained_on(plan_of(plan, config, tokens[0]))
    used = [(tokens[0], ours)]
    if len(tokens) > 1 and config.eval_pairs:
        held_out = replace(tokens[1], pairs=tokens[1].pairs[: config.eval_pairs])
        used.append((held_out, list(range(len(held_out)))))
    cut = config.ld_alpha is not None
    parts = [PairSequences.of([pairs[i] for i in indices], cut) for pairs, indices in used]
    values, use = reference_logps(
        scorer,
        fingerprint,
        [sequence for part in parts for sequence in part.scored],
        cache=cache or (ReferenceCache() if processes.first else None),
        token_budget=config.micro_batch_tokens,
        progress=naming(progress, "reference"),
        processes=processes,
    )
    scored = []
    sizes = [len(part.scored) for part in parts]
    for (pairs, indices), part, logps in zip(used, parts, values.split(sizes), strict=True):
        reference = pair_logps(part, part.spread(logps), config.ld_alpha)
        ranked = config.loss_function.ranked
        scored.append(PairsWithReference.of(pairs, indices, reference, ranked))
    return scored, use


def _trained_on(plan: StepPlan) -> list[int]:
    """Indices of the training pairs that at least one step of the run uses."""
    if plan.shown(plan.total_steps) >= plan.pairs:
        return list(range(plan.pairs))
    return sorted(index for step in range(plan.total_steps) for index in plan.batch(step))
