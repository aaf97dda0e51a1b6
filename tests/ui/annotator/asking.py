"""What annotators here ask about, and somebody who answers."""

from __future__ import annotations

PROMPTS = ["the acting felt", "the plot was", "the music was"]
QUICK = {"steps": 4, "eval_every": 2, "kl_samples": 4}


def brevity(prompt: str, answer: str) -> float:
    """The fewer words the better."""
    return -1.5 * len(answer.split())
