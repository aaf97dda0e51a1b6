"""Eight kinds of tokenizer and eight chat templates, each small and built here."""

from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>"),
]
LINES = [
    "Is the Elbe a river? The Elbe is a river. No lake. Name a river",
    "user assistant model system [INST] [/INST] yes no Answer: plot plotting felt good",
    "add one\nso it is\n\n4 a hm\n5",
    "plotting",
] * 4


def _byte_level(bos: bool) -> Tokenizer:
    """GPT-2's kind, and with BOS that of Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer, vocab_size=420, initial_alphabet=alphabet)
    return _with_bos(tokenizer) if bos else tokenizer


def _sentencepiece(prepended: str) -> Tokenizer:
    """BPE over `▁` with bytes to fall back on: Llama 2 (legacy, or not), Gemma (nothing put in)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    if prepended == "every piece":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    elif prepended == "the first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepended != "nothing":
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    # Word by word: pieces longer than a word would not stand for any real vocabulary.
    words = " ".join(LINES).split()
    words += [f" {word}" for word in words] if prepended == "nothing" else []
    _train(tokenizer, trainers.BpeTrainer, words, special, vocab_size=480, limit_alphabet=60)
    return _with_bos(tokenizer)


def _unigram() -> Tokenizer:
    """That of T5 and its like: the likeliest pieces, `▁` in front of every text."""
    text = "".join(LINES)
    pieces = [(word, -3.0) for word in dict.fromkeys(f"▁{word}" for word in text.split())]
    letters = [(letter, -8.0) for letter in sorted({"▁", *text} - {" ", "\n"})]
    known = [(piece, 0.0) for piece in SPECIAL] + [("\n", -8.0)] + pieces + letters
    tokenizer = Tokenizer(models.Unigram(known, unk_id=SPECIAL.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _with_special(tokenizer)


def _word_piece() -> Tokenizer:
    """BERT's kind, read from left to right: `##` joins, every text between `<s>` and `</s>`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _train(tokenizer, trainers.WordPieceTrainer, vocab_size=150)
    return _with_bos(tokenizer, "<s> $A </s>")


def _word_level() -> Tokenizer:
    """Whole words, as in the micro world."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _train(tokenizer, trainers.WordLevelTrainer)
    return tokenizer


def _train(tokenizer, trainer, lines=LINES, special=SPECIAL, **options) -> None:
    given = {"special_tokens": special, "show_progress": False, **options}
    tokenizer.train_from_iterator(lines, trainer(**given))
    _with_special(tokenizer)


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def _with_bos(tokenizer: Tokenizer, single: str = "<s> $A") -> Tokenizer:
    ids = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


KINDS = {
    "byte-level": lambda: _byte_level(False),
    "byte-level, BOS": lambda: _byte_level(True),
    "SentencePiece, legacy": lambda: _sentencepiece("every piece"),
    "SentencePiece": lambda: _sentencepiece("the first"),
    "SentencePiece, no prefix": lambda: _sentencepiece("nothing"),
    "Unigram": _unigram,
    "WordPiece, BOS and EOS": _word_piece,
    "words": _word_level,
}
MERGING = [name for name in KINDS if name not in ("words", "WordPiece, BOS and EOS")]


@cache
def _trained(kind: str) -> str:
    return KINDS[kind]().to_str()


def tokenizer_of(kind: str, template: str | None = None, **options) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind; its end token is `</s>` unless another is given."""
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **options}
    backend = Tokenizer.from_str(_trained(kind))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **given)


_EACH = "{% for m in messages %}"
# name: template, its end of turn
TEMPLATES = {
    "ChatML": (
        _EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
    ),
    "Llama 2": (
        _EACH + "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "Llama 3": (
        "{{ bos_token }}" + _EACH + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|eot_id|>",
    ),
    "Zephyr": (
        _EACH + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "</s>",
    ),
    "Gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}" + _EACH + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}"
        "\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<end_of_turn>",
    ),
    "Mistral": (
        "{{ bos_token }}" + _EACH + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "Phi 3": (
        _EACH + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
    ),
    "thinking": (
        _EACH + "{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|assistant|>"
        "{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
        "<|im_end|>",
    ),
}
