"""Rows of a Parquet file, a few at a time (pyarrow, the extra `parquet`).

Knows: what the library says of a damaged file. What it claims of itself is believed nowhere: rows
are counted as they come.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError, UsageError
from yantai.text.reading import shown
from yantai.text.reading_rows import Row

TOGETHER = 256
LARGEST_TEXT = 64 << 20
"""Bytes of a name or a list in the file's own description; pyarrow refuses what is larger."""


def parquet_rows(path: Path) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The records of a file, numbered from 0, in their order.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: E303, it is no Parquet file, or a damaged one.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "E207", "pyarrow", "is not installed", do="pip install 'yantai[parquet]'"
        ) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(
            path, thrift_string_size_limit=LARGEST_TEXT, thrift_container_size_limit=LARGEST_TEXT
        ) as file:
            for batch in file.iter_batches(batch_size=TOGETHER):
                for fields in batch.to_pylist():
                    raw = json.dumps(fields, ensure_ascii=False, default=str).encode()
                    yield Row(0, 0, raw, len(raw), index=number), fields
                    number += 1
            claimed = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            "E303", f"{shown(path)}:[{number}]", f"the Parquet file is damaged ({error})"[:300],
            do="take it from its source again",
        ) from error  # fmt: skip
    if claimed != number:
        raise DataError(
            "E303", shown(path), "the Parquet file is damaged", expected=f"{claimed:,} rows",
            got=f"{number:,}",
        )  # fmt: skip
