"""Parquet files: every row is there, or the file is called damaged."""

import random

import pyarrow
import pyarrow.parquet
import pytest

from yantai.base.errors import DataError, UsageError
from yantai.data.labelled import Columns, read_labelled
from yantai.text.table import TableReader

ROWS = [{"text": f"row {n} 砚台", "label": "ab"[n % 2]} for n in range(1000)]


def written(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def test_rows_are_read_in_their_order(tmp_path):
    path = written(tmp_path / "rows.parquet", ROWS, row_group_size=300)
    reader = TableReader(path)
    records = list(reader)
    assert [record.fields for record in records] == ROWS
    assert records[7].place == "rows.parquet:[7]"
    assert reader.account.rows_in == reader.account.rows_out == 1000
    assert reader.source["size"] == path.stat().st_size
    with pytest.raises(UsageError, match="name their own columns"):
        TableReader(path, columns=["a", "b"])


def test_a_bad_row_is_named_and_kept(tmp_path):
    rows = [*ROWS[:3], {"text": None, "label": "a"}, *ROWS[3:6]]
    path = written(tmp_path / "rows.parquet", rows)
    with pytest.raises(DataError, match=r"rows\.parquet:\[3\]"):
        read_labelled(path, Columns())
    found, account = read_labelled(path, Columns(), policy="quarantine", quarantine=tmp_path / "q")
    assert len(found) == 6
    assert sum(account.quarantined.values()) == 1
    with pytest.raises(DataError, match="no column 'body'"):
        read_labelled(path, Columns("body"))


@pytest.mark.parametrize("cut", [0, 3, 4, 100, -1, -4, -9])
def test_a_file_cut_short_is_damaged(tmp_path, cut):
    whole = written(tmp_path / "rows.parquet", ROWS).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"cut\.parquet:\[0\]: the Parquet file is damaged"):
        list(TableReader(tmp_path / "cut.parquet"))


def test_whatever_is_changed_the_rows_are_there_or_the_file_is_damaged(tmp_path):
    # with sums of each page, as careful writers write them, no change of a value passes unseen
    whole = written(tmp_path / "rows.parquet", ROWS[:100], write_page_checksum=True).read_bytes()
    dice, path, damaged = random.Random(0), tmp_path / "changed.parquet", 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(dice.choice((1, 1, 4))):
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            assert len(list(TableReader(path))) == 100
        except DataError as error:
            assert error.code in ("E303", "E301", "E304")
            damaged += 1
    assert damaged > 100
