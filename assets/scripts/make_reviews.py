"""Write the `reviews` data set; the same bytes every time.

Usage: python assets/scripts/make_reviews.py [FOLDER]
"""

import json
import sys
from pathlib import Path

from dpo_lab.data.reviews import HELD_OUT_PROMPTS, PROMPTS, sample_pairs

TRAIN_PAIRS, TEST_PAIRS = 4000, 600


def main(folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl`, which share no prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    train_prompts = tuple(prompt for prompt in PROMPTS if prompt not in HELD_OUT_PROMPTS)
    for split, prompts, rows, seed in (
        ("train", train_prompts, TRAIN_PAIRS, 1),
        ("test", HELD_OUT_PROMPTS, TEST_PAIRS, 2),
    ):
        lines = [json.dumps(row) + "\n" for row in sample_pairs(prompts, rows, seed)]
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8", newline="\n")


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "data" / "reviews"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
