"""Answers of a job's models to prompts, and their rewards; its processes divide the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.end_tokens import Ids
from dpo_lab.data.pairs import Text, answer_to, prompt_text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.reward import RewardEnsemble, RewardModel
from dpo_lab.models.sampling import Completion, sample
from dpo_lab.training.job import Job


def draw(
    job: Job,
    model: LanguageModel,
    prompts: Sequence[Text],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    temperature: float = 1.0,
) -> list[Completion]:
    """One answer of a model to each prompt.

    Args:
        job: Its configuration gives the length limit.
        model: Policy or reference.
        prompts: The prompts.
        seed: Random seed.
        progress: Called with `(done, total)` of this process's prompts.
        temperature: 1 samples from the model; 0 is greedy.
    """
    ids = model.encoder.prompts(prompts)
    return draw_to(job, model, ids, seed, progress, temperature=temperature)


def draw_to(
    job: Job,
    model: LanguageModel,
    prompts: Sequence[Ids],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    temperature: float = 1.0,
    first_number: int = 0,
    with_logps: bool = False,
) -> list[Completion]:
    """As `draw`, to prompts as ids.

    Args:
        job: As in `draw`.
        model: As in `draw`.
        prompts: Ids of the prompts.
        seed: As in `draw`.
        progress: As in `draw`.
        temperature: As in `draw`.
        first_number: Of the first answer; with the seed it decides its random numbers.
        with_logps: Whether to keep the log-probabilities of the answers' tokens.
    """

    def sampled(places: list[int]) -> list[Completion]:
        return sample(
            model,
            [prompts[place] for place in places],
            max_new_tokens=job.config.max_new_tokens,
            temperature=temperature,
            seed=seed,
            numbers=[first_number + place for place in places],
            with_logps=with_logps,
            progress=progress,
        )

    return job.processes.each(range(len(prompts)), sampled)


def rewards_of(
    job: Job, reward: RewardFn, prompts: Sequence[Text], completions: Sequence[Completion]
) -> list[float]:
    """Reward of each answer.

    Args:
        job: Its processes divide the answers.
        reward: Ground truth, or a reward model, which reads the ids where they are its own.
        prompts: A prompt for each answer.
        completions: The answers.
    """

    def rewards(answered: list[tuple[Text, Completion]]) -> list[float]:
        if not isinstance(reward, RewardModel | RewardEnsemble):
            return [float(reward(prompt_text(prompt), answer.text)) for prompt, answer in answered]
        if not answered:
            return []
        if all(answer.tokenizer == reward.encoder.fingerprint for _, answer in answered):
            ids = [(answer.prompt, answer.ids) for _, answer in answered]
            return reward.rewards_of_ids(ids).tolist()
        texts = [(reward.encoder.as_prompt(prompt), answer.text) for prompt, answer in answered]
        given = [prompt for prompt, _ in texts]
        return reward.rewards_of(given, [answer_to(*each) for each in texts]).tolist()

    return job.processes.each(list(zip(prompts, completions, strict=True)), rewards)
