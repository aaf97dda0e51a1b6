"""`docs/export.md`: its commands have options that their programs have; its table was measured."""

import re
import shlex
from pathlib import Path

from dpo_lab.cli import commands

PAGE = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
# As their parsers name them, read in llama.cpp in 2026.
LLAMA_CPP = {
    "convert_hf_to_gguf.py": ({"--outfile", "--outtype"}, {"bf16"}),
    "convert_lora_to_gguf.py": ({"--outfile", "--base"}, set()),
    "llama-quantize": (set(), {"Q4_K_M"}),
    "llama-cli": ({"-m", "--lora"}, set()),
}


def lines():
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S):
        yield from (shlex.split(line) for line in block.splitlines())


def test_llama_cpps_programs_are_called_with_their_own_options():
    seen = set()
    for words in lines():
        program = next((name for name in LLAMA_CPP if any(w.endswith(name) for w in words)), None)
        if program is None:
            continue
        options, values = LLAMA_CPP[program]
        assert {word for word in words if word.startswith("-")} <= options, words
        assert values <= set(words), words
        seen.add(program)
    assert seen == set(LLAMA_CPP)


def test_every_command_of_the_lab_is_understood():
    """Parsed, not run."""
    found = [words for words in lines() if words[0] == "dpo-lab"]
    assert len(found) >= 5
    for words in found:
        assert callable(commands.parse(words[1:]))
