# The public names, each with the module that it comes from: `__init__.py` reads this list.

from dpo_lab.analysis.controlled_win_rate import controlled_win_rate as controlled_win_rate
from dpo_lab.analysis.cross_fit import cross_fitted_scores as cross_fitted_scores
from dpo_lab.analysis.displacement import (
    exact_displacement as exact_displacement,
    sampled_displacement as sampled_displacement,
    token_displacement as token_displacement,
)
from dpo_lab.analysis.frontier_curve import FrontierCurve as FrontierCurve
from dpo_lab.analysis.judge_agreement import agreement as agreement
from dpo_lab.analysis.margin_history import MarginHistory as MarginHistory
from dpo_lab.analysis.optimality_gap import optimality_gap as optimality_gap
from dpo_lab.analysis.pair_margins import (
    mean_scores as mean_scores,
    precision_at as precision_at,
    score_pairs as score_pairs,
)
from dpo_lab.analysis.response_stats import (
    AnswerForm as AnswerForm,
    before_and_after as before_and_after,
)
from dpo_lab.analysis.token_credit import token_credit as token_credit
from dpo_lab.analysis.token_report import pair_tokens as pair_tokens
from dpo_lab.analysis.win_rate import (
    Votes as Votes,
    detectable_difference as detectable_difference,
    prompts_needed as prompts_needed,
    win_rate as win_rate,
)
from dpo_lab.annotation.endpoint_judge import EndpointJudge as EndpointJudge
from dpo_lab.annotation.judges import BiasedJudge as BiasedJudge, RewardJudge as RewardJudge
from dpo_lab.annotation.scored_pairs import completion_pairs as completion_pairs
from dpo_lab.annotation.side_answers import Sampling as Sampling
from dpo_lab.annotation.simulated import SimulatedAnnotator as SimulatedAnnotator
from dpo_lab.data import reviews as reviews
from dpo_lab.data.batching import collate as collate
from dpo_lab.data.flips import flip_labels as flip_labels
from dpo_lab.data.held_out import load_train_and_held_out as load_train_and_held_out
from dpo_lab.data.packing import pack as pack
from dpo_lab.data.pairs import prompt_text as prompt_text, response_text as response_text
from dpo_lab.data.preferences import (
    Preferences as Preferences,
    load_preferences as load_preferences,
    preferences_from_rows as preferences_from_rows,
)
from dpo_lab.data.tokenized_pairs import tokenize_pairs as tokenize_pairs
from dpo_lab.kernels.head import linear_token_logps as linear_token_logps
from dpo_lab.models.best_of_n import sample_best_of_n as sample_best_of_n
from dpo_lab.models.enumeration import enumerate_responses as enumerate_responses
from dpo_lab.models.kl import measure_kl as measure_kl
from dpo_lab.models.loading import (
    LanguageModel as LanguageModel,
    load_model as load_model,
)
from dpo_lab.models.logps import logps as logps
from dpo_lab.models.response_space import ResponseSpace as ResponseSpace
from dpo_lab.models.reward import (
    load_reward_model as load_reward_model,
    new_reward_model as new_reward_model,
)
from dpo_lab.models.sampling import sample as sample
from dpo_lab.models.scoring import (
    LogpScorer as LogpScorer,
    score_sequences as score_sequences,
)
from dpo_lab.objective.best_of_n import (
    best_of_n_kl_bound as best_of_n_kl_bound,
    best_of_n_logps as best_of_n_logps,
)
from dpo_lab.objective.bradley_terry import (
    calibration as calibration,
    expected_accuracy as expected_accuracy,
    preference_nll as preference_nll,
    preference_probability as preference_probability,
)
from dpo_lab.objective.dpo import dpo_loss as dpo_loss
from dpo_lab.objective.kl import Estimate as Estimate
from dpo_lab.objective.kl_gradient import check_kl as check_kl
from dpo_lab.objective.logprobs import sequence_logps as sequence_logps, token_logps as token_logps
from dpo_lab.objective.optimum import (
    Frontier as Frontier,
    exact_kl as exact_kl,
    log_partition as log_partition,
    optimal_logps as optimal_logps,
    rlhf_objective as rlhf_objective,
)
from dpo_lab.objective.pair_logps import (
    PairLogps as PairLogps,
    implicit_rewards as implicit_rewards,
)
from dpo_lab.objective.policy_gradient import (
    GRPO as GRPO,
    RLOO as RLOO,
    PolicyGradient as PolicyGradient,
    advantages as advantages,
    policy_gradient_loss as policy_gradient_loss,
)
from dpo_lab.objective.registry import (
    LOSSES as LOSSES,
    Loss as Loss,
    find_loss as find_loss,
    gradient_weight as gradient_weight,
    loss_and_grads as loss_and_grads,
)
from dpo_lab.training.callbacks import Callback as Callback
from dpo_lab.training.config import TrainConfig as TrainConfig
from dpo_lab.training.control import RunControl as RunControl
from dpo_lab.training.evaluation import evaluate as evaluate
from dpo_lab.training.job import Job as Job
from dpo_lab.training.loop import train as train
from dpo_lab.training.outcome import measure_outcome as measure_outcome
from dpo_lab.training.preflight import PreFlight as PreFlight, check_data as check_data
from dpo_lab.training.records import (
    SampleRecord as SampleRecord,
    StepRecord as StepRecord,
)
from dpo_lab.training.reward import (
    RewardTraining as RewardTraining,
    reward_margins as reward_margins,
    reward_model_for as reward_model_for,
    train_reward_model as train_reward_model,
)
from dpo_lab.training.run_job import run_job as run_job
from dpo_lab.training.runs import Run as Run
from dpo_lab.training.setup import prepare as prepare
from dpo_lab.training.sft import supervised_finetune as supervised_finetune
from dpo_lab.training.trl_trainer.dpo_config import DPOConfig as DPOConfig
from dpo_lab.training.trl_trainer.trainer import DPOTrainer as DPOTrainer
from dpo_lab.ui.annotator.annotator import Annotator as Annotator
from dpo_lab.ui.compare.compare_models import (
    JudgeSetup as JudgeSetup,
    compare_models as compare_models,
)
from dpo_lab.ui.compare.comparison import Comparison as Comparison
from dpo_lab.ui.explorers.losses import LossExplorer as LossExplorer, NoiseExplorer as NoiseExplorer
from dpo_lab.ui.explorers.optimum import (
    OptimumExplorer as OptimumExplorer,
    objective_figure as objective_figure,
    optimum_figure as optimum_figure,
)
from dpo_lab.ui.explorers.pair_explorer import PairExplorer as PairExplorer
from dpo_lab.ui.explorers.token_inspector import TokenInspector as TokenInspector
from dpo_lab.ui.export.export_run import Export as Export, export_run as export_run
from dpo_lab.ui.figures.displacement import (
    mass_figure as mass_figure,
    shares_figure as shares_figure,
    steps_table as steps_table,
)
from dpo_lab.ui.figures.kl import (
    estimators_figure as estimators_figure,
    frontier_figure as frontier_figure,
)
from dpo_lab.ui.figures.losses import (
    displacement_figure as displacement_figure,
    length_figure as length_figure,
    loss_curves_figure as loss_curves_figure,
    push_figure as push_figure,
)
from dpo_lab.ui.figures.margins import margin_figure as margin_figure
from dpo_lab.ui.figures.responses import form_figure as form_figure, form_table as form_table
from dpo_lab.ui.figures.rewards import (
    calibration_figure as calibration_figure,
    preference_figure as preference_figure,
    rewards_figure as rewards_figure,
)
from dpo_lab.ui.figures.rlhf import (
    gap_figure as gap_figure,
    overoptimisation_figure as overoptimisation_figure,
)
from dpo_lab.ui.figures.style import PLOTLY_CONFIG as PLOTLY_CONFIG
from dpo_lab.ui.figures.training_figure import training_figure as training_figure
from dpo_lab.ui.html.credit import credit_map as credit_map
from dpo_lab.ui.html.tables import samples_table as samples_table, table as table
from dpo_lab.ui.html.token_view import tokens_html as tokens_html
from dpo_lab.ui.preflight.checker import DataChecker as DataChecker
from dpo_lab.ui.report.sweep_page import sweep_figure as sweep_figure
from dpo_lab.ui.workbench.workbench import Workbench as Workbench

__version__: str
