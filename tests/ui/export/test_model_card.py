"""The card: front matter that the hub reads, the run's own numbers, code that runs."""

import re
import xml.etree.ElementTree as ET

import pytest
from exported_runs import tiny_run
from huggingface_hub import ModelCard

from dpo_lab.training.records import StepRecord
from dpo_lab.ui.export.curves_svg import HEIGHT, WIDTH, curves_svg, nice_ticks
from dpo_lab.ui.export.export_run import export_run
from dpo_lab.ui.export.model_card import hub_name, shown_name

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory, one_thread):
    """A run with a chat template and its export."""
    root = tmp_path_factory.mktemp("card")
    run = tiny_run(root, template="ChatML", lora_rank=4, beta=0.25)
    return run, export_run(run, root / "out", merge=True, license="mit", device="cpu")


def test_the_front_matter_is_what_the_hub_reads(made):
    run, done = made
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "mit"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["dpo", "dpo-lab", "lora"]
    # A base and data that are folders of this machine are not claimed to be the hub's.
    assert card.data.base_model is None and card.data.datasets is None


def test_the_card_says_what_the_run_measured(made):
    run, done = made
    text, last = (done.folder / "README.md").read_text(), run.records()[-1]
    for said in (
        "| beta | 0.25 |",
        f"| reference's digest | `{run.environment['weights_fingerprint']}` |",
        f"| data's digest | `{run.environment['data_fingerprint']}` |",
        "| steps | 3 of 3, 4 pairs each |",
        "| pairs | 5 to train, 2 held out |",
        f"± {last['kl/per_token_stderr']:.3f} (1 s.e.), on 4 samples of 3 prompts",
        f"| {last['eval/loss']:.4g} |",
        "| merged, float32 | ",
        "lora_rank: 4",
        f"training moved the policy {last['kl/per_token']:.3g} nats an answer",
    ):
        assert said in text, said
    assert str(run.path.parent) not in text, "paths of this machine are not in it"


def test_the_code_in_the_card_runs(made, monkeypatch, capsys):
    _, done = made
    (code,) = re.findall(r"```python\n(.*?)```", (done.folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(done.folder)
    names: dict = {}
    exec(code, names)
    assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]
    prompt = names["tokenizer"].decode(names["inputs"]["input_ids"][0])
    assert prompt.startswith("<|im_start|>user\nwhere is")


def test_names_of_the_hub_and_of_this_machine(tmp_path, monkeypatch):
    assert hub_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert hub_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_name("micro") is None and hub_name(str(tmp_path)) is None
    assert shown_name(f"{tmp_path}/secret/pairs.jsonl") == "pairs.jsonl"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("owner/name") is None, "a folder here, not the hub's"


def test_every_value_is_drawn_where_its_axis_says():
    """Loss 0.8, 0.2, 0.5 at steps 0, 5, 10: ticks at 0.2 steps, so places are known."""
    losses = {0: 0.8, 5: 0.2, 10: 0.5}
    records = [StepRecord(step, 0.0, 4, 0.1, 1e-3, {"loss": loss}) for step, loss in losses.items()]
    root = ET.fromstring(curves_svg(records))
    spaces = {"s": "http://www.w3.org/2000/svg"}
    (line,) = root.findall(".//s:polyline", spaces)
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert [x for x, _ in points] == pytest.approx([52, 52 + 148, WIDTH - 12])
    low, high = points[1][1], points[0][1]
    assert (low, high) == pytest.approx((HEIGHT - 34, 44)), "0.2 below, 0.8 on top"
    assert points[2][1] == pytest.approx((low + high) / 2)
    texts = [node.text for node in root.findall(".//s:text", spaces)]
    assert {"Loss", "training", "0.2", "0.4", "0.6", "0.8", "step 0", "5", "10"} <= set(texts)
    assert "held out" not in texts
    assert curves_svg(records[:1]) == ""


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.1, 28.6, [0, 10, 20, 30]),
        (-3.2, 0.4, [-4, -3, -2, -1, 0, 1]),
        (2, 2, [1.5, 1.75, 2, 2.25, 2.5]),
    ],
)
def test_ticks_are_round_and_reach_around(low, high, ticks):
    found = nice_ticks(low, high, most=6 if len(ticks) == 6 else 5)
    assert found == ticks and found[0] <= low and found[-1] >= high
