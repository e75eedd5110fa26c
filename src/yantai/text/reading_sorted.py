"""Rows of forms that are no table: each is read, or stops the reading, or goes into quarantine.

Knows: the policy and the account, the same as those of tables.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from yantai.base.errors import DataError
from yantai.text.reading_account import Quarantine, RowAccount
from yantai.text.reading_json import BadRow

Item = TypeVar("Item")
Found = TypeVar("Found")


def sort_out(
    items: Iterable[Item],
    read: Callable[[Item], Found],
    describe: Callable[[Item], tuple[str, dict[str, Any], bytes]],
    path: Path,
    quarantine: Path | None,
) -> tuple[list[Found], RowAccount]:
    """The rows that are good, and the account of all.

    Args:
        items: what the file has, in its order.
        read: makes a row of one, or raises `BadRow`.
        describe: of one: its place, `file:…`; what the quarantine says of it; its raw bytes.
        path: the file.
        quarantine: the folder for bad ones; None stops at the first.

    Raises:
        DataError: an item is bad and there is no quarantine, or none is left.
    """
    account, kept = RowAccount(), Quarantine(quarantine) if quarantine is not None else None
    rows = []
    for item in items:
        account.rows_in += 1
        try:
            rows.append(read(item))
            account.rows_out += 1
        except BadRow as bad:
            place, record, raw = describe(item)
            if kept is None:
                do = f"{bad.do or 'mend it'} or pass --on-bad-row quarantine"
                raise DataError(bad.code, place, bad.what, got=bad.got, do=do) from bad
            told = {"file": path.name, "code": bad.code, "reason": bad.reason, "what": bad.what}
            kept.keep(record | told, raw, False)
            account.quarantine(bad.reason, place)
    if kept is not None:
        kept.close()
    account.check("reading")
    if not rows:
        raise DataError("E305", path, "no rows are left", got=account.losses())
    return rows, account
