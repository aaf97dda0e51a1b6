from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from dpo_lab.models.loading import LanguageModel, add_lora, load_model
from dpo_lab.models.reward import RewardEnsemble, load_reward_model, new_reward_model


@pytest.fixture
def sequences(micro):
    prompts, texts = (
        ["the acting felt", "the plot was", "the music seemed"],
        ["good", "not bad", ""],
    )
    ids = micro.encoder.responses(prompts, texts)
    return list(zip(micro.encoder.prompts(prompts), ids, strict=True))


def test_a_reward_is_the_head_on_the_trunks_last_state_whatever_else_is_in_the_batch(
    micro, sequences
) -> None:
    reward = new_reward_model(micro, seed=1)
    by_hand = []
    for prompt, response in sequences:
        states = micro.model.model(torch.tensor([prompt + response])).last_hidden_state
        by_hand.append(states[0, -1] @ reward.model.score.weight[0])
    torch.testing.assert_close(reward.rewards(sequences), torch.stack(by_hand))
    torch.testing.assert_close(
        reward.rewards_of_ids(sequences, token_budget=1), torch.stack(by_hand)
    )
    assert reward("the plot was", "not bad") == pytest.approx(by_hand[1].item(), abs=1e-6)


def test_it_begins_with_the_language_models_weights_and_leaves_them_alone(micro) -> None:
    before = micro.model.model.embed_tokens.weight.clone()
    reward = new_reward_model(micro, seed=1)
    with torch.no_grad():
        reward.model.model.embed_tokens.weight.add_(1)
    torch.testing.assert_close(micro.model.model.embed_tokens.weight, before, rtol=0, atol=0)
    assert not torch.equal(reward.head.weight, new_reward_model(micro, seed=2).head.weight)
    assert torch.equal(reward.head.weight, new_reward_model(micro, seed=1).head.weight)


def test_what_is_saved_transformers_loads_too(micro, sequences, tmp_path) -> None:
    reward = new_reward_model(micro, seed=3)
    reward.save(tmp_path / "reward")
    again = load_reward_model(tmp_path / "reward", device="cpu")
    expected = reward.rewards_of_ids(sequences)
    torch.testing.assert_close(again.rewards_of_ids(sequences), expected)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    prompt, response = sequences[0]
    found = plain(torch.tensor([prompt + response])).logits
    assert found.shape == (1, 1) and found.item() == pytest.approx(expected[0].item(), abs=1e-6)


def test_a_cut_answer_and_an_ended_one_differ_where_padding_is_the_end_token(sequences) -> None:
    lm = load_model("micro", device="cpu")
    lm.tokenizer.pad_token = None
    reward = new_reward_model(LanguageModel(lm.model, lm.tokenizer, "micro", "test"), seed=1)
    (end,) = reward.encoder.end_ids
    assert reward.encoder.pad_id == end
    ended = [(prompt, response) for prompt, response in sequences if len(response) > 1]
    assert all(response[-1] == end for _, response in ended)
    both = [*ended, *((prompt, response[:-1]) for prompt, response in ended)]
    by_hand = []
    for prompt, response in both:
        states = lm.model.model(torch.tensor([prompt + response])).last_hidden_state
        by_hand.append(states[0, -1] @ reward.model.score.weight[0])
    found = reward.rewards(both)
    torch.testing.assert_close(found, torch.stack(by_hand))
    assert (found[: len(ended)] - found[len(ended) :]).abs().min() > 1e-3


def test_an_ensemble_is_the_mean_of_its_members(micro, sequences) -> None:
    members = [new_reward_model(micro, seed) for seed in range(3)]
    mean = sum(member.rewards_of_ids(sequences) for member in members) / 3
    ensemble = RewardEnsemble(members)
    torch.testing.assert_close(ensemble.rewards_of_ids(sequences), mean)
    assert ensemble("the acting felt", "good") == pytest.approx(mean[0].item(), abs=1e-6)


def test_what_it_cannot_begin_from_is_refused_in_words(micro, tmp_path) -> None:
    adapted = add_lora(load_model("micro"), 2)
    with pytest.raises(ValueError, match="LoRA"):
        new_reward_model(adapted)
    reward = new_reward_model(micro)
    reward.model.config.num_labels = 2
    reward.model.score = torch.nn.Linear(96, 2, bias=False)
    reward.save(tmp_path / "two")
    with pytest.raises(ValueError, match="gives 2 numbers"):
        load_reward_model(tmp_path / "two")
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert: .*no linear layer named 'score'"):
        load_reward_model(tmp_path / "bert")
