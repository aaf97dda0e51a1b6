"""How many answers of a model end within so many tokens: what the default length is chosen by."""

from __future__ import annotations

import argparse
import json

from dpo_lab import load_preferences
from dpo_lab.models.loading import load_model
from dpo_lab.models.sampling import sample

LIMITS = (32, 48, 64, 96, 128, 192, 256, 384, 512)
GENERAL = (
    "Explain why the sky is blue.",
    "Write a short poem about the sea.",
    "How do I make pancakes?",
    "What is a black hole?",
    "Give me three tips for sleeping better.",
    "Summarise the plot of Romeo and Juliet.",
    "What is the capital of France?",
    "Write an email asking for a day off.",
    "How does a bicycle stay upright?",
    "Tell me a joke.",
    "What should I cook tonight?",
    "Why do cats purr?",
)


def main() -> None:
    """Print, for each kind of prompt, the answers that had ended within each limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=24, help="of each kind")
    arguments = parser.parse_args()
    model, count = load_model(arguments.model), arguments.answers
    places = load_preferences("places").prompts[:count]
    general = [GENERAL[i % len(GENERAL)] for i in range(count)]
    for what, prompts, temperature in (
        ("places, sampled", places, 1.0),
        ("places, greedy", places, 0.0),
        ("general questions, sampled", general, 1.0),
    ):
        ids = model.encoder.prompts(model.encoder.as_prompts(prompts))
        options = {"max_new_tokens": max(LIMITS), "temperature": temperature, "seed": 1}
        answers = sample(model, ids, **options)
        ended = {n: sum(one.ended and len(one.ids) <= n for one in answers) for n in LIMITS}
        print(json.dumps({"what": what, "answers": len(answers), "ended_within": ended}))


if __name__ == "__main__":
    main()
