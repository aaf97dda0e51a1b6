from __future__ import annotations

import math
import threading

import numpy as np
from hypothesis import given, strategies as st

from dpo_lab.training.history import History
from dpo_lab.training.records import StepRecord

_KEYS = st.sampled_from(["loss", "eval/loss", "kl/per_token", "rewards/margins_p10"])
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_RECORDS = st.builds(
    StepRecord,
    step=st.integers(0, 2**40),
    epoch=_NUMBERS,
    pairs_seen=st.integers(0, 2**40),
    beta=_NUMBERS,
    learning_rate=_NUMBERS,
    values=st.dictionaries(_KEYS, _NUMBERS),
    timing=st.dictionaries(st.sampled_from(["seconds", "pairs_per_second"]), _NUMBERS),
)


@given(st.lists(_RECORDS, max_size=150))
def test_every_record_comes_back_as_it_was_put_in(records: list[StepRecord]) -> None:
    history = History(records)
    assert list(history) == records and history[:] == records
    assert all(isinstance(record.step, int) for record in history)
    if records:
        assert history[-1] == records[-1]


def test_columns_hold_the_steps_on_which_every_key_was_measured() -> None:
    history = History(
        StepRecord(step, 0.0, 0, 0.1, 1e-3, {"a": step / 2} | ({"b": -step} if step % 2 else {}))
        for step in range(200)
    )
    odd = np.arange(1, 200, 2)
    np.testing.assert_array_equal(history.columns("a", "b"), np.c_[odd, odd / 2, -odd])
    assert history.last("b") == -199 and history.last("c") is None
    assert history.columns("c").shape == (0, 2)
    assert history.newest("a") == history[199] and history.newest("a", "c") is None
    assert History(history[:199]).newest("a", "b") == history[197]


def test_a_reader_never_sees_half_a_record_while_another_thread_appends() -> None:
    history, over, seen = History(), threading.Event(), []

    def read() -> None:
        while not over.is_set():
            rows = history.columns("a", "late")
            seen.append(bool((rows[:, 1] == 2 * rows[:, 0]).all() and (rows[:, 2] > 0).all()))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(20_000):
        values = {"a": 2.0 * step} | ({"late": 1.0 + step} if step > 5000 else {})
        history.append(StepRecord(step, 0.0, 0, 0.1, 1e-3, values))
    over.set()
    reader.join()
    assert len(seen) > 10 and all(seen)


def test_a_hundred_thousand_records_take_some_megabytes() -> None:
    values = {f"key {i}": math.pi for i in range(16)}
    history = History(StepRecord(step, 0.0, 0, 0.1, 1e-3, values) for step in range(100_000))
    # 16 keys and 5 fields, 8 bytes each; rows double from 64 up.
    assert history._table.nbytes == 2**17 * 21 * 8
