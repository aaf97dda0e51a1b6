"""One format for one model, from training to `sample --run`, and ids that a resume finds again."""

import datetime
import json
import threading

import pytest
from tiny_tokenizers import TEMPLATES, tokenizer_of
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dpo_lab.cli.commands import main
from dpo_lab.data.text_to_ids import AS_MESSAGES
from dpo_lab.models import sampling
from dpo_lab.training import evaluation, sweep as sweeping, text_record
from dpo_lab.training.config import TrainConfig
from dpo_lab.training.loop import train
from dpo_lab.training.runs import Run
from dpo_lab.training.setup import prepare
from dpo_lab.training.start_or_resume import open_or_create

CHATML, DATED = TEMPLATES["ChatML"][0], "{{ strftime_now('%d %b %Y') }}\n" + TEMPLATES["ChatML"][0]
RIVERS = ("Elbe", "Rhine", "Oder", "Main")


class Day(datetime.date):
    """A calendar whose today is set here."""

    shown = (2026, 1, 31)

    @classmethod
    def today(cls):
        return cls(*cls.shown)


@pytest.fixture
def folder(tmp_path):
    tokenizer = tokenizer_of("byte-level", CHATML)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=len(tokenizer) + 8, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"Is the {river} a river?", "chosen": "yes", "rejected": "no"}
        for river in RIVERS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings(folder, **changes) -> TrainConfig:
    given = {
        "model": str(folder / "model"), "data": str(folder / "rows.jsonl"), "batch_pairs": 2,
        "steps": 2, "eval_every": 1, "kl_samples": 2, "sample_prompts": 1, "max_new_tokens": 4,
        "held_out": 0.25, "device": "cpu", "checkpoint_every": 1,
    }  # fmt: skip
    return TrainConfig(**given | changes)


def trained(config, path) -> Run:
    job = prepare(config)
    run = open_or_create(Run(path), job)
    for _ in train(job, run=run):
        pass
    return run


def change_tokenizer(folder, change) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    change(tokenizer)
    tokenizer.save_pretrained(folder / "model")


def asked_prompts(monkeypatch) -> list:
    """The ids of every prompt that a model is asked from now on."""
    asked = []

    def complete(language_model, prompts, *arguments):
        asked.extend(prompts)
        return whole(language_model, prompts, *arguments)

    whole = sampling._complete
    monkeypatch.setattr(sampling, "_complete", complete)
    return asked


@pytest.mark.parametrize("prompt_format", ["auto", "plain"])
def test_training_evaluation_and_sample_ask_by_the_same_ids(
    folder, monkeypatch, capsys, prompt_format
):
    """Ids by the tokenizer alone, in the shape that the format names."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def right(text: str) -> tuple[int, ...]:
        if prompt_format == "plain":
            return tuple(tokenizer(text).input_ids)
        message = [{"role": "user", "content": text}]
        return tuple(tokenizer.apply_chat_template(message, add_generation_prompt=True).input_ids)

    every = {right(f"Is the {river} a river?") for river in RIVERS}
    assert len(every) == 4
    asked = asked_prompts(monkeypatch)
    config = settings(folder, prompt_format=prompt_format)
    job = prepare(config)
    held_out = {pair.prompt for pair in job.held_out.tokens}
    assert {pair.prompt for pair in job.train.tokens} | held_out == every
    evaluation.evaluate(job, 0.1, 0)
    evaluation.answers(job, 0)
    assert set(asked) == held_out
    said = f"3 {AS_MESSAGES}"
    assert (said in str(job.train.tokens)) == (prompt_format == "auto")
    assert job.text.used == {"auto": "chat", "plain": "plain"}[prompt_format]

    run = trained(config, folder / "run")
    del asked[:]
    main(["sample", "--run", str(run.path), "--prompt", "Is the Elbe a river?", "--device", "cpu"])
    assert asked == [right("Is the Elbe a river?")] * 2  # reference and policy
    assert run.environment["text"]["used"] == job.text.used
    capsys.readouterr()
    main(
        ["sample", "--model", str(folder / "model"), "--prompt", "Is it?", "--device", "cpu"]
        + ["--prompt-format", prompt_format]
    )
    assert asked[2:] == [right("Is it?")]


def test_held_out_prompts_that_the_template_refuses_are_not_asked(folder):
    """They are no held-out pairs either; today's evaluation would end in their refusal."""
    refuses = "{% if 'Main' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    change_tokenizer(folder, lambda some: setattr(some, "chat_template", refuses + CHATML))
    for seed in range(20):
        job = prepare(settings(folder, seed=seed, held_out=0.5, batch_pairs=1))
        assert "Main" not in str(job.prompts)
        if len(job.prompts) == 1:  # of the two that are held out
            return
    raise AssertionError("the test must hold out what is refused")


def test_a_template_of_a_file_is_used_kept_and_found_again_without_the_file(folder, capsys):
    file = folder / "mine.jinja"
    file.write_text(CHATML.replace("<|im_start|>", "<|im_start|><|im_start|>"))
    config = settings(folder, chat_template=str(file))
    run = trained(config, folder / "run")
    assert run.config.chat_template == file.read_text()
    saved = AutoTokenizer.from_pretrained(run.checkpoint)
    assert saved.chat_template == file.read_text()
    double = saved.convert_tokens_to_ids(["<|im_start|>"]) * 2
    command = ["train", "--resume", "--out", str(run.path), "--chat-template"]
    main([*command, str(file)])
    assert "this run is done" in capsys.readouterr().out or run.summary["state"] == "done"
    other = folder / "other.jinja"
    other.write_text(CHATML)
    with pytest.raises(SystemExit):
        main([*command, str(other)])
    assert "--chat-template" in capsys.readouterr().err
    file.unlink()
    job = prepare(run.config)
    assert all(list(pair.prompt[:2]) == double for pair in job.train.tokens)
    assert open_or_create(run, job) is run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file, and the words are no template"),
        ("no braces", "holds no template"),
        ("{% for m in messages %}\n{{ m.content }}", "chat_template: line 2 is no Jinja"),
    ],
)
def test_a_template_that_is_none_is_refused_in_words(folder, text, message):
    file = folder / "mine.jinja"
    if text:
        file.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(settings(folder, chat_template=str(file)))


def changed_template(some):
    some.chat_template = CHATML.replace("assistant", "model")


CHANGES = {
    "template": (changed_template, {}, "the chat template changed since this run began"),
    "added token": (
        lambda some: some.add_tokens(["plotplot"]), {},
        r"the tokenizer \((\d+) tokens then, (\d+) now\) changed since this run began",
    ),
    "tokenizer": (
        lambda some: setattr(some, "add_prefix_space", True), {"of": "byte-level, BOS"},
        "the tokenizer .* changed since this run began",
    ),
    "format": (
        None, {"prompt_format": "plain"}, "was begun with prompt_format=auto, not plain"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_does_not_go_on_with_other_ids(folder, name):
    change, options, message = CHANGES[name]
    run = trained(settings(folder), folder / "run")
    assert open_or_create(run, prepare(run.config)) is run
    if "of" in options:
        tokenizer_of(options.pop("of"), CHATML).save_pretrained(folder / "model")
    elif change:
        change_tokenizer(folder, change)
    with pytest.raises(ValueError, match=message):
        open_or_create(run, prepare(settings(folder, **options)))


def test_a_run_of_before_this_was_recorded_goes_on_with_a_warning(folder, caplog):
    run = trained(settings(folder), folder / "run")
    old = {name: value for name, value in run.environment.items() if name != "text"}
    (run.path / "environment.json").write_text(json.dumps(old))
    assert open_or_create(run, prepare(run.config)) is run
    assert "begun before tokenizer and chat template were recorded" in caplog.text


def test_a_date_that_a_template_writes_is_the_day_on_which_the_run_began(folder, monkeypatch):
    """The ids of the last day of January, on the second of February."""
    monkeypatch.setattr(text_record, "date", Day)
    change_tokenizer(folder, lambda some: setattr(some, "chat_template", DATED))
    Day.shown = (2026, 1, 31)
    run = trained(settings(folder), folder / "run")
    assert run.config.template_date == run.environment["text"]["date"] == "2026-01-31"
    begun = [pair.prompt for pair in prepare(run.config).train.tokens]
    Day.shown = (2026, 2, 2)
    job = prepare(run.config)
    assert [pair.prompt for pair in job.train.tokens] == begun
    assert job.policy.tokenizer.decode(begun[0]).startswith("31 Jan 2026\n")
    with job.reference.active() as reference:
        text = reference.language_model.encoder.template.render(job.prompts[0])
    assert text.startswith("31 Jan 2026\n")
    assert open_or_create(run, job) is run
    with pytest.raises(ValueError, match=r"date .* .2026-01-31 then, 2026-02-02 now. changed"):
        open_or_create(run, prepare(settings(folder)))
    assert (
        prepare(settings(folder, template_date="2025-12-24"))
        .policy.encoder.template.render(job.prompts[0])
        .startswith("24 Dec 2025\n")
    )
    assert run.config.unresolved().template_date is None  # another run has another day


def test_a_template_without_a_date_records_none(folder):
    assert prepare(settings(folder, template_date="2025-12-24")).text.date is None
    with pytest.raises(ValueError, match="template_date='Christmas': not a date .* 2026-01-31"):
        settings(folder, template_date="Christmas")


class OnceBegun(threading.Event):
    """Set once there is a run in a folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def is_set(self):
        return any(self.folder.glob("*/config.json"))


def test_a_sweep_goes_on_with_the_date_that_it_began_with(folder, monkeypatch):
    """One run is stopped on the last day of January, the others are run on the second of February.

    The processes of a sweep are others, which know the real date alone.
    """
    monkeypatch.setattr(text_record, "date", Day)
    monkeypatch.setattr(sweeping, "date", Day)
    change_tokenizer(folder, lambda some: setattr(some, "chat_template", DATED))
    configs = {f"seed={seed}": settings(folder, seed=seed) for seed in (0, 1)}
    Day.shown = (2026, 1, 31)
    sweeping.run_one(configs["seed=0"], folder / "runs" / "seed=0", OnceBegun(folder / "runs"))
    Day.shown = (2026, 2, 2)
    assert len(sweeping.sweep(configs, folder / "runs", workers=1)) == 2
    for name in configs:
        run = Run(folder / "runs" / name)
        assert run.summary["state"] == "done"
        assert run.config.template_date == run.environment["text"]["date"] == "2026-01-31"
        assert run.environment["reference"]["computed"] == (name == "seed=0") * 8
    other = {"seed=2": settings(folder, seed=2)}
    sweeping.sweep(other, folder / "others", workers=1)
    assert Run(folder / "others" / "seed=2").config.template_date == "2026-02-02"
