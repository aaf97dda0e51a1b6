"""`Job`: a prepared run, with everything that its steps and evaluations use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpo_lab.data.builtin import RewardFn
from dpo_lab.data.load_report import LoadReport
from dpo_lab.data.pairs import Text
from dpo_lab.models.loading import LanguageModel
from dpo_lab.models.pair_mass import ListedPairs
from dpo_lab.models.processes import ALONE, Processes
from dpo_lab.models.reference import CacheStats, Reference
from dpo_lab.models.reward import RewardModel
from dpo_lab.models.sampling import Completion
from dpo_lab.models.scoring import LogpScorer
from dpo_lab.models.weights import weights_fingerprint
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.live_settings import LiveSettings
from dpo_lab.training.pairs import PairsWithReference
from dpo_lab.training.step_plan import StepPlan
from dpo_lab.training.text_record import TextRecord

Progress = Callable[[str, int, int], None]
"""Called with the current work, how much is done, and the total."""


def naming(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """A `(done, total)` callback that reports to `progress` under the name `what`."""
    return progress and (lambda done, total: progress(what, done, total))


@dataclass
class Job:
    """A prepared run: nothing is trained yet, and the policy equals the reference.

    Attributes:
        config: The configuration, with defaults filled in.
        live: Current beta and peak learning rate, which may change during training.
        policy: The model that will be trained.
        reference: The policy before training, frozen.
        scorer: Scorer of the policy.
        fingerprint: Hash of the reference's weights.
        train: Training pairs.
        held_out: Held-out pairs; None if nothing is held out.
        prompts: Held-out prompts, each once, in the form in which the model gets them.
        reward_fn: Ground-truth reward of `(prompt, response)`, if there is one.
        training_reward: What rates the policy's own answers in a step, if the method samples any:
            the ground truth, a reward model, or any function of prompt and response.
        train_prompts: The prompt of each training pair, in the form in which the model gets it.
        load_reports: Rows read and skipped.
        data_fingerprint: Hash of the training pairs' text.
        held_out_fingerprint: Hash of the held-out pairs' text.
        text: The tokenizer and chat template that turned the text into ids.
        plan: Makes the plan of the steps, from the configuration and the number of pairs.
        step_gradient: Where a step's gradient comes from, instead of the method's `StepGradient`.
        prompt_kind: Name for one of the prompts, shown to people; set it if you replace `prompts`.
        cache_use: Number of reference values computed and read.
        reference_answers: Greedy answers of the reference, from the first evaluation on.
        listed_pairs: The held-out pairs among all listed answers, from the first evaluation on.
        baseline: What losses of single responses compared log-ratios with in the last step, nats.
        restore_dropout: Restores the policy's dropout probabilities.
        processes: The processes that work on the run.
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
    reward_fn: RewardFn | None
    load_reports: list[LoadReport]
    data_fingerprint: str
    held_out_fingerprint: str
    text: TextRecord
    training_reward: RewardFn | None = None
    train_prompts: Sequence[Text] = ()
    plan: Callable[[TrainConfig, int], StepPlan] = StepPlan
    step_gradient: Callable[..., Any] | None = None
    prompt_kind: str = "held-out prompt"
    cache_use: CacheStats = field(default_factory=lambda: CacheStats(0, 0, 0))
    reference_answers: list[Completion] = field(default_factory=list)
    listed_pairs: ListedPairs | None = None
    baseline: float = 0.0
    restore_dropout: Callable[[], None] = lambda: None
    processes: Processes = ALONE

    @property
    def reward_fingerprint(self) -> str:
        """Hash of the weights of reward models that rate answers in training, if any do."""
        rates = self.training_reward
        models = [rates] if isinstance(rates, RewardModel) else getattr(rates, "members", [])
        return " ".join(weights_fingerprint(model.model) for model in models)

    def hand_back(self) -> None:
        """Restore the policy's dropout probabilities; it stays in evaluation mode."""
        self.policy.model.eval()
        self.restore_dropout()
