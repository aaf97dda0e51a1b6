"""The check of data at size: does it find what was planted, and nothing else; memory and time.

    python benchmarks/preflight.py                  # 100,000 and 1,000,000 rows, some ten minutes
    python benchmarks/preflight.py --sizes 5000     # in small

Each size runs in a process of its own, whose peak memory is read from the system. Which held-out
prompts have a near copy on the other side is computed by `split_by_prompt`, which holds all pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from planted_pairs import BACK, PLACES, kind_of, planted_rows

OUT = Path(__file__).parent / "results" / "preflight.json"
LONGER = 0.8
LISTED_ELSEWHERE = {"repeated", "prompts_cut", "responses_cut"}
"""Findings that rows planted for another may have as well."""


def write_rows(path: Path, count: int) -> None:
    """Write so many planted rows."""
    with path.open("w") as file:
        for row in planted_rows(count, LONGER):
            file.write(json.dumps(row) + "\n")


def check(path: str, rows_out: str, processes: int) -> None:
    """Check a file in this process, and print what it took."""
    from dpo_lab.data.preflight.check import check_pairs
    from dpo_lab.models.loading import load_tokenizer

    tokenizer = load_tokenizer("smollm2")
    worker_mb: list[int] = [0]
    threading.Thread(target=_watch_workers, args=(worker_mb,), daemon=True).start()
    started = time.perf_counter()
    found = check_pairs(path, tokenizer, processes=processes, rows_out=Path(rows_out))
    seconds = time.perf_counter() - started
    rule = found.rules[0]
    facts = {
        "rows": found.rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(found.rows / seconds),
        "cpu_seconds": round(_cpu_seconds()),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "peak_mb_of_a_worker": max(worker_mb),
        "median_pair_tokens": found.lengths["pair"].quantile(0.5),
        "rule": [rule.name, rule.rule, round(rule.share, 4), [round(x, 4) for x in rule.interval]],
        "findings": {one.name: [one.severity, one.count, one.of] for one in found.findings},
    }
    print(json.dumps(facts))


def _cpu_seconds() -> float:
    """Of this process and its workers: what it takes where nobody else uses the cores."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _watch_workers(found_mb: list[int]) -> None:
    """Peak memory of the workers by /proc, once a second: getrusage's counts their parent's too."""
    while True:
        for task in Path("/proc/self/task").iterdir():
            for worker in (task / "children").read_text().split():
                with contextlib.suppress(OSError):  # it has ended
                    status = Path(f"/proc/{worker}/status").read_text()
                    if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                        found_mb.append(round(int(peak[1]) / 1000))
        found_mb[:] = [max(found_mb)]
        time.sleep(1)


def expected(path: Path, count: int) -> dict[str, set[int]]:
    """Row numbers that each finding should have."""
    from dpo_lab.data.held_out import split_by_prompt
    from dpo_lab.data.preferences import load_preferences

    rows: dict[str, set[int]] = defaultdict(set)
    for index in range(count):
        kind = kind_of(index)
        if kind in PLACES and kind != "near_prompts":
            rows[kind].add(index + 1)
        if kind == "both_labels":
            rows[kind].add(index + 1 - BACK[kind])
    _, held_out = split_by_prompt(load_preferences(path, on_bad_rows="skip"), 0.1)
    held = {pair.row for pair in held_out}
    for index in range(PLACES["near_prompts"], count):
        if kind_of(index) == "near_prompts":
            both = {index + 1, index + 1 - BACK["near_prompts"]}
            if len(both & held) == 1:
                rows["near_prompts"] |= both & held
    return rows


def compared(rows_out: Path, truth: dict[str, set[int]]) -> dict[str, dict[str, int]]:
    """Of each finding: rows planted, found, missed, and named though they are clean."""
    named: dict[str, set[int]] = defaultdict(set)
    for line in rows_out.open():
        one = json.loads(line)
        named[one["finding"]].add(one["row"])
    table = {}
    for kind in sorted({*truth, *named}):
        wrong = set() if kind in LISTED_ELSEWHERE else named[kind] - truth.get(kind, set())
        table[kind] = {
            "planted": len(truth.get(kind, ())),
            "found": len(named[kind]),
            "missed": len(truth.get(kind, set()) - named[kind]),
            "clean_rows_named": len(wrong),
        }
    return table


def measure(count: int, processes: int, folder: Path) -> dict:
    """One size: what was found, how long it took, how much memory."""
    path, rows_out = folder / "pairs.jsonl", folder / "rows.jsonl"
    write_rows(path, count)
    command = [sys.executable, __file__, "--one", str(path), str(rows_out), str(processes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    facts = json.loads(done.stdout.splitlines()[-1]) | {"processes": processes}
    facts["file_mb"] = round(path.stat().st_size / 1e6)
    if count <= 200_000:  # beyond that, the truth's own computation takes the memory
        facts["planted"] = compared(rows_out, expected(path, count))
    return facts


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, rows_out, processes = arguments.one
        return check(path, rows_out, int(processes))
    results = []
    for count in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(count, arguments.processes, Path(folder)))
        print(json.dumps(results[-1], indent=2), flush=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**machine, "runs": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
