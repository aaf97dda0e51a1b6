"""Where the workbench reports its runs to: a line in which trackers are named."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets

from dpo_lab.ui.html.tables import escaped

EXPLANATION = (
    "Trackers that get every step and evaluation of a run that is kept: tensorboard, wandb, "
    "trackio, mlflow and others that transformers knows. TensorBoard's files are in the run's "
    "folder, under runs/."
)


class TrackerChoice:
    """Names of trackers as a labelled text, refused with a message if one is not there.

    Args:
        names: Trackers to begin with.

    Attributes:
        names: Those in force.
        value: The input widget.
        view: Label, input and error message.

    Raises:
        ValueError: If a tracker is unknown, or not installed.
    """

    def __init__(self, names: str | Sequence[str] | None = None):
        self.names = _checked([names] if isinstance(names, str) else list(names or ()))
        title = widgets.HTML(f"<label title='{escaped(EXPLANATION)}'>report to</label>")
        self.value = widgets.Text(
            value=", ".join(self.names),
            placeholder="no tracker",
            continuous_update=False,
            tooltip=EXPLANATION,
            layout=widgets.Layout(width="auto"),
        ).add_class("dpo-report-to")
        self.problem = widgets.HTML().add_class("dpo-problem")
        self.view = widgets.VBox([title, self.value, self.problem])
        self.view.add_class("dpo-control").add_class("dpo-set-report-to")
        self.value.observe(self._entered, "value")

    def _entered(self, change) -> None:
        """Take the names; a refused text stays so that it can be corrected."""
        try:
            self.names = _checked(change["new"].replace(",", " ").split())
            self.problem.value = ""
        except ValueError as error:
            self.problem.value = escaped(str(error))


def _checked(names: list[str]) -> list[str]:
    if names:
        from dpo_lab.training.report_to import tracker_callbacks

        tracker_callbacks(names)
    return names
