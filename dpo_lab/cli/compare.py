"""The command that compares two models' answers: `compare`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dpo_lab.cli.arguments import SAID, Flag
from dpo_lab.cli.output import new_console, print_rows, say
from dpo_lab.data.pairs import PromptFormat, Text

if TYPE_CHECKING:
    from dpo_lab.ui.compare.compare_models import JudgeSetup
    from dpo_lab.ui.compare.result import ComparisonResult
    from dpo_lab.ui.compare.sides import Side

PRINTED = 8
"""Answers in the printed table; the page has all of them."""


@dataclass(frozen=True)
class Compare:
    """Compare a run's policy with its reference, another run or a model: answers, judges, text.

    Examples:
      dpo-lab compare --run runs/mine
      dpo-lab compare --run runs/mine --run runs/other --reward runs/reward-model
      dpo-lab compare --run runs/mine --url http://localhost:8000/v1 --judge-model qwen3
    """

    run: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], SAID] = ()
    """Run A, whose policy is compared; given twice, run B as well."""
    reference: Flag = False
    """B is the reference of run A, as without a second run."""
    against: Annotated[str | None, SAID] = None
    """B is this model: a name, a folder or a hub id."""
    prompt: Annotated[tuple[str, ...], SAID] = ()
    """Prompts of one's own, instead of the held-out ones of run A."""
    prompts: Annotated[Path | None, SAID] = None
    """A file of prompts: a .txt with one a line, or rows with a column prompt."""
    limit: int = 200
    """Most prompts, the first."""
    samples: int = 1
    """Answers to each prompt; several need a temperature above 0."""
    temperature: float = 0.0
    """0 is greedy, 1 draws from the models themselves."""
    seed: int = 0
    """Seed of the draws, and of which model's answer is shown first."""
    max_new_tokens: Annotated[int | None, SAID] = None
    """Most tokens of an answer; by default as in run A."""
    prompt_format: Annotated[PromptFormat | None, SAID] = None
    """How prompts of text are given to the models: auto, chat or plain; by default as in run A."""
    reward: Annotated[Path | None, SAID] = None
    """A reward model that judges; data with a score of its own always judges by it."""
    url: Annotated[str | None, SAID] = None
    """An OpenAI-compatible endpoint whose model judges, such as http://localhost:8000/v1."""
    judge_model: Annotated[str | None, SAID] = None
    """Name of the model that judges there."""
    key_from: Annotated[str | None, SAID] = None
    """Name of the environment variable that holds the endpoint's key, which is never written."""
    instruction: Annotated[Path | None, SAID] = None
    """A file with what that judge reads, instead of the lab's: {prompt}, {a} and {b} in it."""
    judge_tokens: int = 512
    """Most tokens of that judge's reply; one that thinks first needs more."""
    workers: int = 4
    """Requests to the endpoint at a time."""
    timeout: float = 120.0
    """Seconds until a request is tried again."""
    orders: int = 2
    """2 shows every pair to the endpoint's judge in both orders, 1 in one."""
    neutral: Annotated[Path | None, SAID] = None
    """A file of neutral text, passages parted by blank lines, to measure what is forgotten; by
    default the lab's own."""
    no_neutral: Flag = False
    """Do not measure that."""
    out: Annotated[Path | None, SAID] = None
    """Folder of answers, verdicts, result.json and report.html; by default compare/ in the folder
    of run A. The same command on the same folder goes on where it was."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trust_remote_code: Flag = False
    """Run code that comes with a model."""
    json: Flag = False
    """Print the result as JSON instead of a table."""

    def __call__(self) -> None:
        """Draw the answers, have them judged, write the page."""
        from dpo_lab.analysis.forgetting import neutral_passages
        from dpo_lab.cli.terminal import TerminalDisplay
        from dpo_lab.training.files import check_writable
        from dpo_lab.ui.compare.compare_models import compare_models

        self._check()
        a, b = self._sides()
        out = self.out or a.folder(b)
        check_writable(out)
        sampling = replace(
            a.sampling(self.max_new_tokens, self.seed),
            temperature=self.temperature,
            samples=self.samples,
        )
        if self.prompt_format:
            sampling = replace(sampling, prompt_format=self.prompt_format)
        result = compare_models(
            a,
            b,
            self._prompts(a),
            self._judges(a.run.config.data),
            folder=out,
            sampling=sampling,
            neutral=() if self.no_neutral else neutral_passages(self.neutral),
            progress=TerminalDisplay(new_console(stderr=True)).on_wait,
        )
        self._print(result, out / "report.html")

    def _check(self) -> None:
        if not 1 <= len(self.run) <= 2:
            raise ValueError("--run: give one run, or two to compare with each other.")
        if (len(self.run) == 2) + self.reference + (self.against is not None) > 1:
            raise ValueError("--run B, --reference, --against: B is one of them. Give only one.")
        if (self.url is None) != (self.judge_model is None):
            raise ValueError("--url and --judge-model: a judge takes both. Give both, or neither.")
        if self.prompt and self.prompts:
            raise ValueError("--prompt and --prompts: give only one of them.")
        if self.limit < 1:
            raise ValueError("--limit: must be at least 1.")

    def _sides(self) -> tuple[Side, Side]:
        from functools import partial

        from dpo_lab.models.loading import load_model
        from dpo_lab.training.run_models import policy_of, reference_of
        from dpo_lab.training.runs import Run
        from dpo_lab.ui.compare.sides import Side

        how = {"device": self.device, "trust_remote_code": self.trust_remote_code}
        runs = [Run.open(path) for path in self.run]
        names = [run.path.resolve().name for run in runs]
        if len(set(names)) < len(names):
            names = [str(run.path) for run in runs]
        sides = [
            Side(name, partial(policy_of, run, **how), run)
            for name, run in zip(names, runs, strict=True)
        ]
        if self.against is not None:
            sides.append(Side(self.against, partial(load_model, self.against, **how)))
        elif len(runs) == 1:
            sides.append(Side("reference", partial(reference_of, runs[0], **how)))
        return sides[0], sides[1]

    def _prompts(self, a: Side) -> list[Text]:
        from dpo_lab.data.prompt_file import read_prompts

        if self.prompt:
            found: list[Text] = list(self.prompt)
        elif self.prompts:
            found = read_prompts(self.prompts)
        else:
            found = list(a.prompts())
        if not found or not all(found):
            raise ValueError("--prompt, --prompts: empty. Give the text that both are to answer.")
        return found[: self.limit]

    def _judges(self, data: str) -> dict[str, JudgeSetup]:
        """Each judge by its name."""
        from dpo_lab.annotation.endpoint_judge import INSTRUCTION, EndpointJudge
        from dpo_lab.annotation.judges import RewardJudge
        from dpo_lab.data.builtin import BUILTIN
        from dpo_lab.models.reward import load_reward_model
        from dpo_lab.models.weights import weights_fingerprint
        from dpo_lab.ui.compare.compare_models import JudgeSetup

        judges: dict[str, JudgeSetup] = {}
        once = {"orders": 1, "sees_order": False}
        if data in BUILTIN:
            truth = RewardJudge(BUILTIN[data].reward_fn)
            judges[f"the score of {data}"] = JudgeSetup(truth, {"score": data}, **once)
        if self.reward is not None:
            model = load_reward_model(self.reward, self.device)
            facts = {"reward model": weights_fingerprint(model.model)}
            judges["reward model"] = JudgeSetup(RewardJudge(model), facts, **once)
        if self.url is not None and self.judge_model is not None:
            text = self.instruction.read_text("utf-8") if self.instruction else INSTRUCTION
            endpoint = EndpointJudge(
                self.url,
                self.judge_model,
                key_from=self.key_from,
                instruction=text,
                timeout=self.timeout,
                max_tokens=self.judge_tokens,
            )
            judges[self.judge_model] = JudgeSetup(
                endpoint, endpoint.facts, self.orders, workers=self.workers
            )
            endpoint.check()
        return judges

    def _print(self, result: ComparisonResult, page: Path) -> None:
        from dpo_lab.data.pairs import prompt_text
        from dpo_lab.data.sampled import shown
        from dpo_lab.ui.compare.page import agreement_words, forgetting_words
        from dpo_lab.ui.compare.result import in_words

        if self.json:
            print(json.dumps(result.as_dict() | {"report": str(page)}))
            return
        rows = [
            {
                "prompt": prompt_text(pair.prompt),
                result.names[0]: shown(pair.a, pair.a_cut),
                result.names[1]: shown(pair.b, pair.b_cut),
            }
            for pair in result.pairs[:PRINTED]
        ]
        print_rows(rows)
        console = new_console()
        for one in result.judged:
            console.print(f"\nJudged by {one.judge}", markup=False)
            for line in in_words(one, result.names):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        for name, one in result.agreements.items():
            line = f"\n{name}: {agreement_words(one)}."
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if result.forgetting:
            line = f"\n{forgetting_words(result)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for note in result.notes:
            say(note)
        console.print(f"\nReport  {page}", markup=False, soft_wrap=True)
