"""The command that leaves with a model: `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, print_rows
from dpo_lab.models.model_settings import Bits, DType


@dataclass(frozen=True)
class ExportRun:
    """Write a run's policy as a folder that transformers loads; load it again and compare.

    Weights, tokenizer, chat template and a model card. Before the folder is kept it is loaded by
    plain transformers and compared with the policy: KL, differences of the tokens'
    log-probabilities, greedy answers. A float32 export that is off by more than rounding, 1e-4 nats
    a token, is refused.

    Examples:
      dpo-lab export --run runs/mine --merge --dtype bfloat16
      dpo-lab export --run runs/mine
      dpo-lab export --run runs/mine --merge --out mine --prompts questions.txt
      dpo-lab export --run runs/mine --merge --dtype bfloat16 --push owner/name
    """

    run: Path
    """Folder of the run."""
    out: Annotated[Path | None, SAID] = None
    """Folder to write; by default in export/ of the run's folder."""
    merge: Flag = False
    """Merge a LoRA adapter into its base; otherwise the adapter alone is written."""
    dtype: DType = "float32"
    """What the weights are written in."""
    also: tuple[Bits, ...] = ()
    """Load the folder in 8bit or 4bit too, with bitsandbytes, and measure how far it is then."""
    prompts: Annotated[Path | None, SAID] = None
    """A text file of prompts to compare on, one a line; by default held-out prompts of the run."""
    probes: int = 32
    """Sampled answers to compare on, and most prompts; 0 leaves the comparison out."""
    seed: int = 0
    """Seed of the answers that are compared."""
    license: Annotated[str | None, SAID] = None
    """License that the card names, such as apache-2.0; by default that of micro and smollm2."""
    overwrite: Flag = False
    """Replace a model that lies in the folder; other files are never replaced."""
    push: Annotated[str | None, SAID] = None
    """Upload it to this repository of the hub, owner/name; the token is that of 'hf auth login' or
    HF_TOKEN."""
    public: Flag = False
    """Let all read a new repository; otherwise it is private."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trust_remote_code: Flag = False
    """Run code that comes with the model; a run's folder cannot say so."""
    json: Flag = False
    """Print the comparison as JSON, one object a line."""

    def __call__(self) -> None:
        """Export it, and print how it compares."""
        from dpo_lab.cli.terminal import TerminalDisplay
        from dpo_lab.ui.export.check_table import check_rows
        from dpo_lab.ui.export.export_run import export_run

        display = TerminalDisplay(new_console(stderr=True))
        try:
            done = export_run(
                self.run,
                self.out,
                merge=self.merge,
                dtype=self.dtype,
                also=self.also,
                prompts=self.prompts and prompts_in(self.prompts),
                probes=self.probes,
                seed=self.seed,
                license=self.license,
                overwrite=self.overwrite,
                push=self.push,
                public=self.public,
                device=self.device,
                trust_remote_code=self.trust_remote_code,
                progress=display.on_wait,
            )
        finally:
            display.close()
        if self.json:
            print_rows([one.as_dict() for one in done.agreements], as_json=True)
            return
        console = new_console()
        if done.agreements:
            print_rows(check_rows(done.agreements))
        console.print(
            f"Exported  {done.folder}  ({done.bytes / 1e6:.1f} MB)", markup=False, soft_wrap=True
        )
        if done.address:
            console.print(f"Uploaded  {done.address}", markup=False, soft_wrap=True)
        if done.base:
            console.print(f"The adapter needs its base, {done.base}", markup=False, soft_wrap=True)


def prompts_in(file: Path) -> list[str]:
    """The prompts in a text file, one a line.

    Raises:
        ValueError: If the file is not there, or holds none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {file}: cannot be read as text ({error}).") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"--prompts {file}: holds no prompt. Write one a line.")
    return prompts
