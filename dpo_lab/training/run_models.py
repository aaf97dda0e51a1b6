"""The models of a run: its policy, and the very reference that it started from."""

from __future__ import annotations

from dpo_lab.models.loading import LanguageModel, load_model
from dpo_lab.models.model_settings import Device
from dpo_lab.models.weights import weights_fingerprint
from dpo_lab.training.runs import Run


def policy_of(
    run: Run, *, device: Device = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """The policy of a run's last checkpoint, with the run's chat template.

    Args:
        run: The run.
        device: Where it goes.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        FileNotFoundError: If there is no checkpoint yet.
    """
    if run.checkpoint is None:
        raise FileNotFoundError(f"{run.path}: this run has no checkpoint yet.")
    model = load_model(str(run.checkpoint), device=device, trust_remote_code=trust_remote_code)
    return _with_template(run, model)


def reference_of(
    run: Run, *, device: Device = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """The reference of a run, with the run's chat template.

    Args:
        run: The run.
        device: Where it goes.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        FileNotFoundError: If the model is not where it was.
        ValueError: If its weights are no longer those that the run started from.
    """
    config = run.config
    model = load_model(
        config.model,
        device=device,
        revision=config.revision,
        trust_remote_code=trust_remote_code,
    )
    known = run.environment.get("weights_fingerprint")
    if known and known != weights_fingerprint(model.base):
        raise ValueError(
            f"{run.path}: the weights of {config.model!r} are not those of the run's reference. "
            "Give them with --model, or a model to compare with."
        )
    return _with_template(run, model)


def _with_template(run: Run, model: LanguageModel) -> LanguageModel:
    config = run.config
    model.use_template(config.chat_template, config.template_date)
    return model
