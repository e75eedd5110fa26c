"""Documents that turn out to have no text at all: said with their names, not passed over.

Knows: the reader of documents, and its account.
"""

from collections.abc import Iterator

from yantai.base.errors import DataError
from yantai.text.document import Document, DocumentReader
from yantai.text.reading import shown


def with_text(reader: DocumentReader) -> Iterator[Document]:
    """The documents.

    Raises:
        DataError: E305 at the end, none of them had any text.
    """
    some = False
    for document in reader:
        some = some or bool(document.text.strip())
        yield document
    if not some:
        raise no_text(reader)


def no_text(reader: DocumentReader) -> DataError:
    """What to say of documents without any text."""
    names = ", ".join(file.name for file in reader.files[:3])
    more = f" and {len(reader.files) - 3:,} more" if len(reader.files) > 3 else ""
    account = reader.account
    return DataError(
        "E305", names + more, "there is no text",
        got=f"{account.rows_in:,} in, {account.losses() or 'all of them empty'}",
        do=f"look at it with yantai doctor {shown(reader.files[0].path)}",
    )  # fmt: skip
