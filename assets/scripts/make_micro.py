"""Make the `micro` model: a word-level tokenizer, and a small Llama trained on the micro world.

Usage: python assets/scripts/make_micro.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dpo_lab.data.reviews import MAX_WORDS, PROMPTS, WORDS, sample_corpus
from dpo_lab.models.loading import LanguageModel
from dpo_lab.training.sft import supervised_finetune

PAD, BOS, END, UNKNOWN = "<pad>", "<bos>", "<end>", "<unk>"
STEPS, BATCH, EXAMPLES, SEED = 4000, 128, 60_000, 0
SURE = 30.0
"""Nats by which the end must outweigh all else after the third word: probability 1 in float32."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, BOS in front; decoding joins words with spaces."""
    vocabulary = {word: index for index, word in enumerate((PAD, BOS, END, UNKNOWN, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """One layer, so that a step is as short as dispatch allows; about 0.1 M weights."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def ending_penalty(language_model: LanguageModel):
    """Penalty that makes the end certain after any three words, so that responses can be counted.

    The corpus alone leaves about one in ten thousand to a fourth word. Here any three tokens that
    are not the end, likely or not, must be followed by the end with `SURE` nats to spare.
    """
    prompts = torch.tensor(language_model.encoder.prompts(PROMPTS))
    end = language_model.tokenizer.eos_token_id
    others = torch.tensor([t for t in range(len(language_model.tokenizer)) if t != end])

    def penalty(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(prompts), (64,), generator=generator)
        words = others[torch.randint(len(others), (64, MAX_WORDS), generator=generator)]
        ids = torch.cat([prompts[rows], words], dim=1)
        logits = language_model.model(input_ids=ids).logits[:, -1]
        gap = logits[:, end] - logits[:, others].logsumexp(-1)
        return 0.1 * torch.relu(SURE - gap).mean()

    return penalty


def main(folder: Path) -> None:
    """Train and write the model."""
    tokenizer = make_tokenizer()
    language_model = LanguageModel(make_model(tokenizer), tokenizer, "micro", "made here")
    losses = supervised_finetune(
        language_model,
        sample_corpus(EXAMPLES, SEED),
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=3e-3,
        warmup_steps=100,
        seed=SEED,
        penalty=ending_penalty(language_model),
    )
    for step, loss in enumerate(track(losses, total=STEPS, description="micro"), start=1):
        if step % 500 == 0:
            print(f"step {step}: {loss:.3f} nats a token")
    language_model.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "micro"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
