"""Which tokens are shown as read, scored and cut, against what a run computes with."""

from __future__ import annotations

from itertools import groupby, takewhile

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dpo_lab.analysis.token_report import SIDES, pair_tokens, shown
from dpo_lab.data.preferences import preferences_from_rows
from dpo_lab.data.tokenized_pairs import tokenize_pairs
from dpo_lab.models.loading import add_lora, load_model
from dpo_lab.models.reference import Reference
from dpo_lab.models.scoring import LogpScorer


def merging(bos: bool = False, **options) -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges letters over the place where a prompt ends."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<bos>", "<eos>", "<turn>", "</turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["plotting", "the plot was plotting"] * 9, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", **options
    )


def rows(prompt, chosen, rejected="other"):
    return preferences_from_rows([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])


def _table(side) -> list[tuple]:
    return [(t.position, t.text, t.id, t.part, t.predicted_by, t.cut) for t in side.tokens]


def test_a_row_that_is_cut_at_both_ends(micro, reviews) -> None:
    """Room for 6. The longer response has 4 tokens, so the prompt keeps 6 - 4 or, if more, 6 / 2.

    That is 3, BOS among them; the 3 places left cut the chosen response and its end token.

              <bos>  the  plot  seemed |  dull   and   bad  <end>
    position    0     -     1      2   |    3     4     5     -
    predicted by                       |    2     3     4     -
    """
    shown = pair_tokens(reviews[0], micro.tokenizer, max_length=6)
    assert _table(shown.chosen) == [
        (0, "<bos>", 1, "BOS", None, False),
        (None, "the", 4, "prompt", None, True),
        (1, "plot", 6, "prompt", None, False),
        (2, "seemed", 17, "prompt", None, False),
        (3, "dull", 27, "response", 2, False),
        (4, "and", 36, "response", 3, False),
        (5, "bad", 29, "response", 4, False),
        (None, "<end>", 2, "end token", None, True),
    ]
    assert _table(shown.rejected)[4:] == [
        (3, "really", 32, "response", 2, False),
        (4, "dull", 27, "response", 3, False),
        (5, "<end>", 2, "end token", 4, False),
    ]
    assert (shown.prompt_cut, shown.cut, shown.dropped) == (1, True, None)
    whys = [token.why for token in shown.rejected.tokens]
    assert "nothing predicts" in whys[0] and whys[1].startswith("cut: the prompt")
    assert whys[2].startswith("read, not scored") and "the prompt's last" in whys[4]
    assert "the end of the response" in whys[6]
    assert shown.chosen.tokens[-1].why.startswith("cut: the response")


@pytest.mark.parametrize("limits", [(512, None), (6, None), (7, 4), (6, 4), (5, 1), (4, 3)])
@pytest.mark.parametrize("bos", [True, False])
def test_what_is_scored_is_what_the_definition_says(micro, reviews, limits, bos) -> None:
    """Ids of the joined text by the tokenizer alone, parted and cut by hand; the mask is the rest.

    They part where the two wholes no longer agree with the prompt's own ids (`micro` has words, so
    there they are joined by a space). `limits` of the tokens kept are found here by counting, not
    by the code under test.
    """
    tokenizer, some = (micro.tokenizer, reviews[:40]) if bos else (merging(), _odd())
    max_length, longest_prompt = limits
    for pair in some:
        seen = pair_tokens(pair, tokenizer, max_length=max_length, max_prompt_length=longest_prompt)
        space = " " * bos
        wholes = [tokenizer(pair.prompt + space + getattr(pair, s)).input_ids for s in SIDES]
        prompt = whole_prompt = [
            tokens[0]
            for tokens in takewhile(
                lambda tokens: len(set(tokens)) == 1,
                zip(tokenizer(pair.prompt).input_ids, *wholes, strict=False),
            )
        ]
        answers = [[*ids[len(prompt) :], tokenizer.eos_token_id] for ids in wholes]
        longest = max(map(len, answers))
        budget = longest_prompt or max(max_length - longest, max_length // 2)
        if len(prompt) + longest > max_length or len(prompt) > budget:
            if len(prompt) > budget:
                keep_bos = bos and budget > 1
                prompt = prompt[:1] * keep_bos + prompt[len(prompt) - budget + keep_bos :]
            answers = [answer[: max_length - len(prompt)] for answer in answers]
        if seen.dropped:
            assert answers[0] == answers[1] and not seen.chosen.scored
            continue
        for side, answer in zip((seen.chosen, seen.rejected), answers, strict=True):
            read = [token for token in side.tokens if not token.cut]
            assert [token.id for token in read] == prompt + answer
            assert [token.position for token in read] == list(range(len(prompt + answer)))
            mask = [False] * len(prompt) + [True] * len(answer)
            assert [token.scored for token in read] == mask
            assert [t.predicted_by for t in side.scored] == [t.position - 1 for t in side.scored]
            assert not any(token.scored for token in side.tokens if token.cut)
            assert [t.id for t in side.prompt] == whole_prompt


def _odd():
    texts = [("the plot", "ting", "s"), ("the plot was the plot was", " plotting was", "é 中 the")]
    texts += [("was", "the plot was plotting the plot", "was the"), ("\tthe\n", "plot", " plot")]
    return [rows(*some)[0] for some in texts]


@pytest.mark.parametrize("max_length", [512, 6, 5])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_log_probabilities_are_those_of_the_scorer_and_of_the_definition(
    reviews, max_length, dtype, close
) -> None:
    """In float32 to 1e-5, and to 1e-6 of their size where a cut prompt makes them large."""
    micro = load_model("micro", device="cpu")
    micro.model.to(dtype)
    scorer = LogpScorer.probed(micro)
    tokens = {p.row: p for p in tokenize_pairs(reviews, micro.tokenizer, max_length=max_length)}
    for pair in reviews[:30]:
        seen = pair_tokens(
            pair, micro.tokenizer, max_length=max_length, policy=scorer, reference=scorer
        )
        used = tokens[pair.row]
        for name in SIDES:
            side, answer = getattr(seen, name), getattr(used, name)
            with torch.no_grad():
                whole = scorer.logps(scorer.batch([(used.prompt, answer)])).item()
                logits = micro.model(input_ids=torch.tensor([used.prompt + answer])).logits[0]
            assert side.logp == pytest.approx(whole, rel=close / 10, abs=close)
            assert side.reference_logp == side.logp
            assert [token.id for token in side.scored] == list(answer)
            for token in side.scored:
                alone = logits[token.predicted_by].log_softmax(-1)[token.id].item()
                assert token.logp == pytest.approx(alone, rel=close / 10, abs=close)
            assert all(token.logp is None for token in side.tokens if not token.scored)


def test_the_reference_may_be_an_adapter_switched_off(reviews) -> None:
    plain = LogpScorer.probed(load_model("micro", device="cpu"))
    policy = LogpScorer.probed(add_lora(load_model("micro", device="cpu"), 2))
    with torch.no_grad():
        for name, weight in policy.language_model.model.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    keywords = {"policy": policy, "reference": Reference(policy)}
    seen = pair_tokens(reviews[0], policy.language_model.tokenizer, **keywords)
    before = pair_tokens(reviews[0], policy.language_model.tokenizer, policy=plain)
    assert seen.chosen.reference_logp == pytest.approx(before.chosen.logp, abs=1e-5)
    assert abs(seen.chosen.logp - before.chosen.logp) > 1e-3


def test_no_scorer_gives_no_log_probabilities(micro, reviews) -> None:
    seen = pair_tokens(reviews[0], micro.tokenizer)
    assert seen.chosen.logp is None and seen.rejected.reference_logp is None
    assert seen.chosen.scored


def test_a_dropped_row_is_shown_with_the_reason(micro, reviews) -> None:
    seen = pair_tokens(reviews[0], micro.tokenizer, max_length=4, max_prompt_length=4)
    assert seen.dropped == "response empty after truncation"
    assert [t.text for t in seen.chosen.tokens][-4:] == ["dull", "and", "bad", "<end>"]
    assert not any(t.scored or t.cut or t.position for t in seen.chosen.tokens)
    inside = pair_tokens(rows("the plot", "was<eos>was")[0], merging())
    assert inside.dropped.startswith("an end token inside the response")
    with pytest.raises(ValueError, match="max_length=1: must be at least 2"):
        pair_tokens(reviews[0], micro.tokenizer, max_length=1)


CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def test_a_conversation_ends_with_its_end_of_turn() -> None:
    tokenizer = merging(chat_template=CHAT)
    talk = [{"role": "user", "content": "was the plot"}]
    answers = ([{"role": "assistant", "content": text}] for text in ("plotting", "the"))
    seen = pair_tokens(rows(talk, *answers)[0], tokenizer)
    assert seen.chosen.prompt[0].part == "BOS" and seen.chosen.prompt[0].text == "<bos>"
    assert seen.chosen.prompt[-1].text == "↵"
    assert [(t.text, t.part) for t in seen.chosen.response] == [
        ("plotting", "response"),
        ("</turn>", "end token"),
    ]
    assert [token.scored for token in seen.chosen.response] == [True, True]


def test_a_conversation_s_tokens_have_the_roles_of_their_messages() -> None:
    tokenizer = merging()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "b")]
    chosen = [{"role": role, "content": text} for role, text in talk]
    rejected = [*chosen[:2], {"role": "assistant", "content": "no"}]
    (pair,) = preferences_from_rows([{"chosen": chosen, "rejected": rejected}])
    tokens = pair_tokens(pair, tokenizer).chosen.tokens
    runs = [
        (role, scored, "".join(token.text for token in run))
        for (role, scored), run in groupby(tokens, key=lambda token: (token.role, token.scored))
    ]
    assert runs == [
        ("system", False, "<system>s<eos>"),
        ("user", False, "<user>q<eos>"),
        ("assistant", False, "<assistant>"),
        ("assistant", True, "a<eos>"),
        ("user", False, "<user>q2<eos>"),
        ("assistant", False, "<assistant>"),
        ("assistant", True, "b<eos>"),
    ]


def test_a_conversation_that_the_template_refuses_has_no_tokens_and_a_reason() -> None:
    tokenizer = merging(chat_template="{{ raise_exception('no <b>talk</b>') }}")
    talk = [{"role": "user", "content": "was"}]
    answers = ([{"role": "assistant", "content": text}] for text in ("plotting", "the"))
    seen = pair_tokens(rows(talk, *answers)[0], tokenizer)
    assert seen.chosen.tokens == seen.rejected.tokens == ()
    assert seen.dropped == "refused by the chat template (no <b>talk</b>)"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (" the", "␣the"),
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\u202e", "⟨202E⟩"),
        ("\xa0", "⟨A0⟩"),
        ("中", "中"),
    ],
)
def test_nothing_in_a_text_stays_invisible(text, want) -> None:
    tokenizer = merging()
    added = AddedToken(text, normalized=False)
    tokenizer.backend_tokenizer.add_tokens([added])
    token = tokenizer.backend_tokenizer.token_to_id(text)
    token = token if token is not None else tokenizer(text).input_ids[0]
    assert shown(tokenizer, token)[0] == want


def test_a_part_of_a_character_has_the_tokenizers_name() -> None:
    tokenizer = merging()
    first, *_ = tokenizer("中").input_ids
    assert shown(tokenizer, first) == ("ä", "ä")


def test_a_space_that_a_tokenizer_drops_from_a_lone_token_is_shown() -> None:
    """As in SentencePiece: decoding the token of " plot" alone gives "plot"."""
    backend = Tokenizer(models.WordLevel({"▁the": 0, "▁plot": 1, "<eos>": 2}, "<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    assert tokenizer.decode([1]) == "plot"
    assert [shown(tokenizer, token)[0] for token in (0, 1, 2)] == ["␣the", "␣plot", "<eos>"]
