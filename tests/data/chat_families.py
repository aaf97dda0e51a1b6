"""Chat templates of eight families, short and written for these tests in their published form.

They lie beside this file, in `chat_templates`. What a family publishes and no conversation here
uses (dates, documents, images, a preamble of its own) is left out. Each has a pattern that finds,
in a conversation's text, where the assistant begins to write: by the family's own marks, not by
the lab's code.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A chat template, and how to read what it writes.

    Attributes:
        template: Name of the file that holds it.
        special: Tokens of their own.
        begins: Where the assistant begins to write.
        end: The token that ends its turn.
        eos: The tokenizer's end token.
        tools: Whether it takes tools.
    """

    template: str
    special: tuple[str, ...]
    begins: str
    end: str
    eos: str
    tools: bool = True


_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

FAMILIES = {
    "Qwen 3": Family(
        "qwen3", (*_CHATML, "<think>", "</think>", "<tool_call>", "</tool_call>"),
        r"<\|im_start\|>assistant\n", "<|im_end|>", "<|im_end|>",
    ),
    "Llama 3.1": Family(
        "llama3", ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n", "<|eot_id|>", "<|eot_id|>",
    ),
    "Mistral": Family(
        "mistral",
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        r"\[/INST\]|\[/TOOL_RESULTS\]", "</s>", "</s>",
    ),
    "Gemma": Family(
        "gemma", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        r"<start_of_turn>model\n", "<end_of_turn>", "<eos>", tools=False,
    ),
    "Phi 4": Family(
        "phi4",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<|tool|>",
         "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"),
        r"<\|assistant\|>", "<|end|>", "<|endoftext|>",
    ),
    "Command": Family(
        "command",
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>",
         "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
         "<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
        r"<\|CHATBOT_TOKEN\|>", "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    ),
    "DeepSeek": Family(
        "deepseek",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
         "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
         "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
         "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        r"<｜Assistant｜></think>|<｜tool▁output▁end｜>", "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "SmolLM": Family(
        "smollm", _CHATML, r"<\|im_start\|>assistant\n", "<|im_end|>", "<|im_end|>", tools=False,
    ),
}  # fmt: skip

_BOS = ("<|begin_of_text|>", "<s>", "<bos>", "<BOS_TOKEN>", "<｜begin▁of▁sentence｜>")


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the tokens of a family, and its template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["The river is the Elbe. Weather in Jena: 18 C."] * 4, trainer)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in family.special])
    bos = next((text for text in family.special if text in _BOS), None)
    template = Path(__file__).parent / "chat_templates" / f"{family.template}.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template.read_text("utf-8").removesuffix("\n"),
        eos_token=family.eos,
        bos_token=bos,
    )
