"""Tiny random models of many families, a byte-level tokenizer, and the plain definition."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dpo_lab.models.loading import LanguageModel

LINES = ["the answer is yes", "the answer is no", "where is the answer", "is it there"] * 5


def make_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on a few lines, which joins letters across white space's edge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", padding_side="right"
    )


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZE | {"intermediate_size": 48, "num_key_value_heads": 2, "attention_dropout": 0.1}
# A cap or a window small enough to matter in sequences of twenty tokens.
FAMILIES = {
    "Llama": GROUPED,
    "Qwen2": GROUPED | {"tie_word_embeddings": True},
    "Qwen3": GROUPED | {"head_dim": 8},
    "Mistral": GROUPED | {"sliding_window": 4},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # its dropouts are 0.1 by default
    "GPTNeoX": SIZE | {"intermediate_size": 48, "attention_dropout": 0.1, "hidden_dropout": 0.1},
    "Gemma": GROUPED | {"head_dim": 8},
    "Gemma2": GROUPED | {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 4},
    "Granite": GROUPED | {"logits_scaling": 3.0},
    "Cohere": GROUPED | {"logit_scale": 0.3},
    "Phi": GROUPED | {"resid_pdrop": 0.1, "embd_pdrop": 0.1},  # its head has a bias
    "OPT": SIZE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "layerdrop": 0.5},
}


def make_model(family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> torch.nn.Module:
    """A model of a family in evaluation mode, every weight moved off its tidy first value."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=320,  # more than the tokenizer has, as in many a real model
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **FAMILIES[family],
    )
    model = getattr(transformers, f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}")
    return shake(model(config).eval(), 0.15, seed)


def shake(model: torch.nn.Module, scale: float, seed: int, only: str = "") -> torch.nn.Module:
    """Add seeded noise to the weights whose name holds a word."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if only in name:
                weight += scale * torch.randn(weight.shape, generator=generator)
    return model


def make_language_model(family: str = "Llama", bos: bool = False, seed: int = 0) -> LanguageModel:
    """A tiny model with its tokenizer."""
    tokenizer = make_tokenizer(bos)
    return LanguageModel(make_model(family, tokenizer, seed), tokenizer, f"tiny {family}", "test")


def plain_log_probs(model: torch.nn.Module, prompt, response) -> torch.Tensor:
    """One row without padding, all logits, log-softmax: `(response tokens, vocabulary)`."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


def plain_logp(model: torch.nn.Module, prompt, response) -> torch.Tensor:
    """The definition: the sum over the response's tokens."""
    log_probs = plain_log_probs(model, prompt, response)
    return log_probs[torch.arange(len(response)), torch.tensor(response)].sum().float()


def argmax_loop(model: torch.nn.Module, prompt, ends, limit: int) -> tuple[int, ...]:
    """Greedy decoding, written out, without a cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] not in ends):
        with torch.no_grad():
            row = torch.tensor([ids])
            ids.append(model(input_ids=row, use_cache=False).logits[0, -1].argmax().item())
    return tuple(ids[len(prompt) :])


def some_sequences(count: int = 8, seed: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts and responses of random ids and many lengths, ending with the end token, 1."""
    generator = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> tuple[int, ...]:
        length = torch.randint(1, longest + 1, (), generator=generator)
        return tuple(torch.randint(2, 300, (length,), generator=generator).tolist())

    return [(ids(9), (*ids(12), 1)) for _ in range(count)]


def branching_sequences():
    """Several prompts, each with several responses; some begin alike."""
    sequences = some_sequences(6)
    more = [(prompt, (*response[:2], 9, 8, 1)) for prompt, response in sequences[:4]]
    return sequences + more + [(sequences[0][0] + (5, 6), (7, 1)), sequences[1]]


def in_float64(model):
    """All of it: many norms (and Cohere's rotation) compute in float32 whatever they are given."""
    model.double()
    for module in model.modules():
        if "Norm" in type(module).__name__ and not isinstance(module, torch.nn.LayerNorm):
            weight = module.weight
            module.forward = lambda x, w=weight: w * torch.nn.functional.rms_norm(x, x.shape[-1:])


class OfNoDouble(torch.Tensor):
    """As on a device without float64: nothing is double before it is on the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """The result, which lies there too unless it was brought to the CPU."""
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return result
