"""Documents to token shards on disk, and ranges of tokens back from them.

Knows: ids, offsets, files, hashes. Knows nothing of batches, of training, or of how text becomes
ids: a tokenizer is anything that encodes a list of texts as plain text.

    tokens/shard-00000.bin …   one stream of ids, uint16 or uint32, cut every `shard_tokens`
           starts.bin          uint64: where each document begins in the stream, and its end
           bytes.bin           uint64: the raw UTF-8 bytes of each document's text
           ids.list            the id of each document, one JSON string a line
           manifest.json       totals, the hash of every file, of the tokenizer and the sources

Each document is BOS + ids + EOS (no BOS where the tokenizer has none). All numbers are
little-endian. The folder appears whole or not at all.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yantai.base.abandoned import remove_abandoned
from yantai.base.errors import DataError, ModelFileError, StorageError, UsageError
from yantai.base.files import (
    new_folder,
    read_json,
    sha256_file,
    sha256_text,
    write_json,
)
from yantai.text.document import Document
from yantai.text.reading import shown
from yantai.text.reading_account import RowAccount, check_stages

FORMAT = "yantai-shards"
VERSION = 1
SHARD_TOKENS = 2**26
BATCH_DOCUMENTS, BATCH_BYTES = 1024, 2 << 20
# An open memory map holds a file descriptor; a process has 1,024 of them.
OPEN_SHARDS = 64
STARTS, BYTES, IDS, MANIFEST = "starts.bin", "bytes.bin", "ids.list", "manifest.json"


def write_shards(
    documents: Iterable[Document],
    tokenizer: Any,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    sources: Sequence[dict[str, Any]] | None = None,
    account: RowAccount | None = None,
) -> "Shards":
    """Tokenize documents into a folder of shards; the same documents give the same bytes.

    Args:
        documents: a `DocumentReader`, or any other source of documents.
        tokenizer: has `bos_id` (or None), `eos_id`, `vocab_size`, `hash` and `encode_batch`, which
            turns texts into ids of plain text, so never those of BOS or EOS.
        folder: the final name; shards that stand there are replaced once the new ones are whole.
        shard_tokens: the tokens in a shard; a document may cross the border.
        sources: `{path, size, mtime_ns, sha256}` of each file that was read.
        account: what became of its rows. These two are looked at after the last document, and
            are taken from `documents` where it has them.

    Raises:
        DataError: E305 nothing is left to learn from, E310 rows are missing.
        ModelFileError: E405 the tokenizer gives ids that it must not give.
        UsageError: E201 a setting, E204 `folder` holds something else.
        StorageError: the disk refused.
    """
    folder = Path(folder)
    if shard_tokens < 1:
        raise UsageError("E201", "shard_tokens", "must be at least 1", got=shard_tokens)
    if tokenizer.eos_id is None:
        raise ModelFileError("E405", "tokenizer", "it has no token for the end of a text")
    _clear_the_way(folder)
    account = account or getattr(documents, "account", None)
    sources = getattr(documents, "sources", ()) if sources is None else sources
    with new_folder(folder) as temporary, ExitStack() as files:
        writer = _Writer(temporary, tokenizer, shard_tokens, files)
        for batch in _batches(documents):
            writer.add(batch)
        accounts = {"read": account} if account else {}
        accounts["tokenize"] = writer.account
        check_stages(accounts, shown(folder))
        manifest = writer.finish()
        manifest["sources"] = list(sources)
        manifest["accounts"] = {name: each.as_dict() for name, each in accounts.items()}
        manifest["hash"] = _content_hash(manifest)
        write_json(temporary / MANIFEST, manifest)
    return Shards.open(folder)


def _clear_the_way(folder: Path) -> None:
    """Remove what a killed writer left; refuse to replace what is not ours."""
    remove_abandoned(folder.parent)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        ours = read_json(folder / MANIFEST)["format"] == FORMAT
    except (StorageError, KeyError, TypeError):
        ours = False
    if not ours:
        what = "there is something else than token shards here, and it would be replaced"
        raise UsageError("E204", folder, what, do="choose another --out")


def _batches(documents: Iterable[Document]) -> Iterator[list[tuple[Document, int]]]:
    """Documents with their bytes, as many at a time as fit into bounded memory."""
    batch: list[tuple[Document, int]] = []
    held = 0
    for document in documents:
        size = document.size_bytes
        batch.append((document, size))
        held += size
        if len(batch) >= BATCH_DOCUMENTS or held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


class _Writer:
    """Takes batches of documents and keeps the stream, its index and the account in step."""

    def __init__(self, folder: Path, tokenizer: Any, shard_tokens: int, stack: ExitStack):
        self.folder, self.tokenizer, self.shard_tokens = folder, tokenizer, shard_tokens
        self._stack = stack  # closes the files, also after an error
        self.dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
        self.account = RowAccount()
        self.tokens = self.bytes = 0
        self._prefix = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        self._texts = array("Q")  # 64 bits of each text's hash, to count exact duplicates
        self._entries: dict[str, dict[str, Any]] = {}
        self._starts, self._bytes, self._ids = map(self._open, (STARTS, BYTES, IDS))
        self._shards = 0
        self._shard = self._next_shard()

    def _open(self, name: str) -> BinaryIO:
        return self._stack.enter_context((self.folder / name).open("wb"))

    def _next_shard(self) -> BinaryIO:
        self._shards += 1
        return self._open(_shard_name(self._shards - 1))

    def _close(self, file: BinaryIO) -> None:
        with file:
            file.flush()
            os.fsync(file.fileno())
        path = Path(file.name)
        self._entries[path.name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}

    def add(self, batch: list[tuple[Document, int]]) -> None:
        encoded = self.tokenizer.encode_batch([document.text for document, _ in batch])
        assert len(encoded) == len(batch), "the tokenizer gave another number of texts back"
        pieces, starts, sizes, ids = [], [], [], []
        for (document, size), plain in zip(batch, encoded, strict=True):
            self.account.rows_in += 1
            if not len(plain):
                self.account.drop("no tokens", document.id)
                continue
            self.account.rows_out += 1
            tokens = np.array([*self._prefix, *plain, self.tokenizer.eos_id], dtype=np.int64)
            self._check_ids(tokens, document)
            pieces.append(tokens)
            starts.append(self.tokens)
            sizes.append(size)
            ids.append(json.dumps(document.id) + "\n")
            digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
            self._texts.append(int.from_bytes(digest, "little"))
            self.tokens += len(tokens)
            self.bytes += size
        if pieces:
            self._write_tokens(np.concatenate(pieces).astype(self.dtype))
        self._starts.write(np.array(starts, dtype="<u8").tobytes())
        self._bytes.write(np.array(sizes, dtype="<u8").tobytes())
        self._ids.write("".join(ids).encode())

    def _check_ids(self, tokens: np.ndarray, document: Document) -> None:
        """A wrong id would be cut to 16 bits, or end the document in its middle, silently."""
        plain = tokens[len(self._prefix) : -1]
        out = (tokens < 0) | (tokens >= self.tokenizer.vocab_size)
        control = np.isin(plain, [*self._prefix, self.tokenizer.eos_id])
        if out.any() or control.any():
            raise ModelFileError(
                "E405",
                f"tokenizer, at {document.id}",
                f"the id {[*tokens[out], *plain[control]][0]} came out of plain text",
                expected=f"0 to {self.tokenizer.vocab_size - 1}, and no control token",
            )

    def _write_tokens(self, tokens: np.ndarray) -> None:
        while len(tokens):
            room = self.shard_tokens - self._shard.tell() // tokens.itemsize
            if not room:
                self._close(self._shard)
                self._shard = self._next_shard()
            self._shard.write(tokens[:room].tobytes())
            tokens = tokens[room:]

    def finish(self) -> dict[str, Any]:
        """Close the files and describe them."""
        self._starts.write(np.array([self.tokens], dtype="<u8").tobytes())
        for file in (self._shard, self._starts, self._bytes, self._ids):
            self._close(file)
        different = len(np.unique(np.frombuffer(self._texts, dtype=np.uint64)))
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "shard_tokens": self.shard_tokens,
            "documents": self.account.rows_out,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "duplicate_documents": self.account.rows_out - different,
            "tokenizer_hash": self.tokenizer.hash,
            "vocab_size": self.tokenizer.vocab_size,
            "bos_id": self.tokenizer.bos_id,
            "eos_id": self.tokenizer.eos_id,
            "files": self._entries,
        }


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


def _content_hash(manifest: dict[str, Any]) -> str:
    """One hash over what the shards are: files, totals, tokenizer, sources by their content.

    Paths, times and accounts stay outside, so that the same data has the same hash anywhere.
    """
    content = {k: v for k, v in manifest.items() if k not in ("hash", "sources", "accounts")}
    content["sources"] = [source.get("sha256") for source in manifest["sources"]]
    return sha256_text(json.dumps(content, sort_keys=True))


class Shards:
    """A folder of token shards, opened for reading; `Shards.open` is the way to get one.

    Attributes:
        folder, manifest: where it is, and all that was written about it.
        token_count, document_count, byte_count: the totals.
        hash, tokenizer_hash: what this data is, and what its ids mean.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder, self.manifest = folder, manifest
        self.token_count: int = manifest["tokens"]
        self.document_count: int = manifest["documents"]
        self.byte_count: int = manifest["bytes"]
        self.hash: str = manifest["hash"]
        self.tokenizer_hash: str = manifest["tokenizer_hash"]
        self.shard_tokens: int = manifest["shard_tokens"]
        self.dtype = np.dtype(manifest["dtype"])
        self._maps: dict[str, np.memmap] = {}
        self._identity = self._manifest_file()

    @classmethod
    def open(cls, folder: Path, verify: bool = False, hash: str | None = None) -> "Shards":
        """Open a folder after a look at its manifest and the sizes of its files.

        Args:
            folder: as written by `write_shards`.
            verify: read every byte and compare its hash too.
            hash: the shards that are expected there.

        Raises:
            DataError: E311, naming the file that is missing, damaged or of another folder.
        """
        path = Path(folder) / MANIFEST
        try:
            manifest = read_json(path)
        except StorageError as error:
            raise _damaged(path, error.what) from error
        _check_manifest(path, manifest)
        if hash not in (None, manifest["hash"]):
            raise _damaged(path, "these are other shards", hash, manifest["hash"])
        folder = path.parent
        for name, entry in manifest["files"].items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise _damaged(path, "the file is missing")
            if size != entry["size"]:
                raise _damaged(path, "the size in bytes is wrong", entry["size"], size)
            if verify and (found := sha256_file(path)) != entry["sha256"]:
                raise _damaged(path, "the SHA-256 is wrong", entry["sha256"], found)
        shards = cls(folder, manifest)
        if shards.starts[0] != 0 or shards.starts[-1] != shards.token_count:
            raise _damaged(folder / STARTS, "the offsets do not span the tokens")
        return shards

    def _map(self, name: str, dtype: "str | np.dtype") -> np.memmap:
        if name not in self._maps:
            if len(self._maps) >= OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps)))
            path = self.folder / name
            try:
                self._maps[name] = np.memmap(path, dtype=dtype, mode="r")
            except (OSError, ValueError) as error:
                raise _damaged(path, f"could not be read ({error})") from error
            if self._manifest_file() != self._identity:
                del self._maps[name]
                raise _damaged(path, "the shards were replaced after they were opened")
        return self._maps[name]

    def _manifest_file(self) -> tuple[int, int] | None:
        """Which file the manifest is: maps are made late, and must not mix two sets of shards."""
        try:
            now = (self.folder / MANIFEST).stat()
        except OSError:
            return None
        return now.st_ino, now.st_mtime_ns

    @property
    def starts(self) -> np.ndarray:
        """Where each document begins in the stream, and the end: uint64 [documents + 1]."""
        return self._map(STARTS, "<u8")

    @property
    def document_bytes(self) -> np.ndarray:
        """The raw UTF-8 bytes of each document's text: uint64 [documents]."""
        return self._map(BYTES, "<u8")

    def document_ids(self) -> Iterator[str]:
        """The id of each document, in order."""
        with (self.folder / IDS).open("rb") as file:
            for line in file:
                yield json.loads(line)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """A copy of the ids from `start` up to `stop` of the stream, across shards.

        Raises:
            IndexError: the range is not within the stream.
        """
        if not 0 <= start <= stop <= self.token_count:
            raise IndexError(f"tokens {start}:{stop} of {self.token_count}")
        parts = [np.empty(0, self.dtype)]
        while start < stop:
            number, offset = divmod(start, self.shard_tokens)
            shard = self._map(_shard_name(number), self.dtype)
            parts.append(shard[offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def close(self) -> None:
        """Let go of the memory maps; they come back when they are needed."""
        self._maps.clear()

    def __reduce__(self):
        # A worker process maps the files itself instead of getting a copy of them.
        return Shards.open, (self.folder, False, self.hash)


def _damaged(path: Path, what: str, expected: object = None, got: object = None) -> DataError:
    again = "write the shards again"
    return DataError("E311", shown(path), what, expected=expected, got=got, do=again)


def _check_manifest(path: Path, manifest: Any) -> None:
    """Believe a manifest only where it agrees with itself."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path, "this is no manifest of token shards")
    if manifest.get("version") != VERSION:
        raise _damaged(path, "this version is not read here", VERSION, manifest.get("version"))
    try:
        whole = manifest["hash"] == _content_hash(manifest)
        tokens, documents, files = manifest["tokens"], manifest["documents"], manifest["files"]
        per_shard, width = manifest["shard_tokens"], {"<u2": 2, "<u4": 4}[manifest["dtype"]]
        sizes = {STARTS: 8 * (documents + 1), BYTES: 8 * documents, IDS: files[IDS]["size"]}
        shards = len(files) - len(sizes)
        for i in range(shards):
            sizes[_shard_name(i)] = width * min(per_shard, tokens - i * per_shard)
        real = {name: entry["size"] for name, entry in files.items()}
        fits = sizes == real and tokens <= shards * per_shard
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a field is missing or wrong ({error!r})") from error
    if not whole:
        raise _damaged(path, "it was changed after it was written: its hash does not hold")
    if not fits:
        raise _damaged(path, "its totals and its files do not belong together")
