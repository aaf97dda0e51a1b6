"""Large files are read in pieces: what is held does not grow with the file."""

import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from dpo_lab.data.readers import read_file

COUNT, TEXT = 3000, "word " * 800


def write(path, count):
    rows = [{"prompt": f"{n} {TEXT}", "chosen": "a", "rejected": "b"} for n in range(count)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=500)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_rows_are_read_as_they_are_taken(tmp_path, ending):
    path = write(tmp_path / f"rows{ending}", COUNT)
    tracemalloc.start()
    numbers = [row.number for row in read_file(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers == list(range(1, COUNT + 1))
    # The text of all rows is 12 MB; a megabyte of lines, a thousand parquet rows are held at once.
    assert peak < (3_000_000 if ending == ".jsonl" else 6_000_000)


def test_a_parquet_file_that_breaks_off_later_is_named(tmp_path):
    path = write(tmp_path / "rows.parquet", 2000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="rows.parquet: not a readable parquet file"):
        list(read_file(path))
