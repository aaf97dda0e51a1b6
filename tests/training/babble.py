"""A micro that hardly ever ends: it says "superb" again and again."""

from __future__ import annotations

import torch

from dpo_lab.models.loading import LanguageModel


@torch.no_grad()
def let_it_babble(micro: LanguageModel, strength: float = 20.0) -> None:
    """Raise "superb" and lower the end wherever the model is; in place."""
    head, seen = micro.model.get_output_embeddings(), {}
    superb = micro.tokenizer.convert_tokens_to_ids("superb")
    (prompt,) = micro.encoder.prompts(["the acting felt"])
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.update(states=inputs[0]))
    micro.model(torch.tensor([[*prompt, *[superb] * 12]]))
    hook.remove()
    mean = seen["states"][0].mean(dim=0)
    (end,) = micro.encoder.end_ids
    head.weight[superb] += strength * mean / mean.square().sum()
    head.weight[end] -= strength * mean / mean.square().sum()
