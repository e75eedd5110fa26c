"""Packed files: every cut, every flipped byte, joined streams, bombs."""

import gzip
import itertools
import json
import random
import struct
import subprocess
import sys
import textwrap

import pytest
import zstandard

from yantai.base.errors import DataError
from yantai.text.document import DocumentReader

CONTENT = "".join(json.dumps({"text": f"row {i} 砚台"}) + "\n" for i in range(300)).encode()


def zstd(content):
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def gz(content):
    return gzip.compress(content, mtime=0)


PACK = {"gz": gz, "zst": zstd}
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"notes"


def fail(path, code="E303"):
    reader = DocumentReader(path)
    documents = []
    with pytest.raises(DataError) as caught:
        for document in reader:
            documents.append(document)
    assert caught.value.code == code
    return caught.value, documents


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "json", "txt", "md"])
def test_packed_files_hold_what_plain_ones_hold(tmp_path, packing, kind):
    (tmp_path / f"a.{kind}").write_bytes(CONTENT)
    (tmp_path / f"a.{kind}.{packing}").write_bytes(PACK[packing](CONTENT))
    plain = [(d.text, d.line) for d in DocumentReader(tmp_path / f"a.{kind}")]
    assert [(d.text, d.line) for d in DocumentReader(tmp_path / f"a.{kind}.{packing}")] == plain


@pytest.mark.parametrize("packing", PACK)
def test_joined_streams_are_read_to_the_end(tmp_path, packing):
    cuts = [0, 1, 7, 7, 5000, len(CONTENT)]
    parts = [PACK[packing](CONTENT[a:b]) for a, b in itertools.pairwise(cuts)]
    path = tmp_path / f"a.jsonl.{packing}"
    path.write_bytes((SKIPPABLE if packing == "zst" else b"").join([b"", *parts]))
    assert len(list(DocumentReader(path))) == 300
    if packing == "gz":
        path.write_bytes(b"\0\0\0".join(parts) + b"\0" * 512)
        assert len(list(DocumentReader(path))) == 300


@pytest.mark.parametrize("packing", PACK)
def test_every_cut_is_found_and_says_how_far_it_came(tmp_path, packing):
    first = PACK[packing](CONTENT[:3000])
    whole = first + PACK[packing](CONTENT[3000:])
    path = tmp_path / f"a.jsonl.{packing}"
    offsets = {*range(40), *random.Random(1).sample(range(len(whole)), 80), len(whole) - 1}
    for offset in sorted(offsets - {len(first)}):  # between two streams nothing is cut
        path.write_bytes(whole[:offset])
        error, documents = fail(path)
        assert error.where == f"{path}:{offset}"
        assert f"is cut off, after {len(documents)} rows read" in error.what
        assert [d.text for d in documents] == [f"row {i} 砚台" for i in range(len(documents))]


@pytest.mark.parametrize("packing", PACK)
def test_every_flipped_byte_of_the_body_is_found(tmp_path, packing):
    whole = PACK[packing](CONTENT)
    path = tmp_path / f"a.jsonl.{packing}"
    for offset in random.Random(2).sample(range(12, len(whole)), 60):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x55
        path.write_bytes(damaged)
        # Either the stream notices, or a row before the checksum at the end is no JSON any more.
        with pytest.raises(DataError) as caught:
            list(DocumentReader(path))
        assert caught.value.code in ("E301", "E302", "E303", "E304")


def test_many_rows_before_a_cut_are_counted(tmp_path):
    rng = random.Random(3)
    rows = b"".join(b'{"text": "%030x"}\n' % rng.getrandbits(120) for _ in range(60_000))
    for packing, pack in PACK.items():
        path = tmp_path / f"a.jsonl.{packing}"
        path.write_bytes(pack(rows)[:-9])
        error, documents = fail(path)
        assert 30_000 < len(documents) <= 60_000
        assert f"after {len(documents):,} rows read" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", CONTENT, "not gzip data; it begins with 7b 22"),
        ("a.jsonl.zst", CONTENT, "not zstd data; it begins with 7b 22"),
        ("a.jsonl.gz", zstd(CONTENT), "not gzip data; it begins with 28 b5 2f fd"),
        ("a.jsonl.zst", gz(CONTENT), "not zstd data; it begins with 1f 8b"),
    ],
)
def test_wrong_magic(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    error, documents = fail(path)
    assert said in str(error) and documents == []
    assert error.where == f"{path}:0"


@pytest.mark.parametrize("packing", PACK)
def test_garbage_after_the_stream(tmp_path, packing):
    path = tmp_path / f"a.jsonl.{packing}"
    path.write_bytes(PACK[packing](CONTENT) + b"garbage!")
    error, _ = fail(path)
    assert "is damaged" in error.what


def test_a_stream_fault_is_not_quarantined(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gz(CONTENT)[:-20])
    reader = DocumentReader(path, policy="quarantine", quarantine=tmp_path / "q")
    with pytest.raises(DataError) as caught:
        list(reader)
    assert caught.value.code == "E303"
    assert reader.sources == []


BLANK = b" " * 4095 + b"\n"
ROW = b'{"text": "' + b"0" * 4083 + b'"}\n'
assert len(BLANK) == len(ROW) == 4096


def gzip_bomb(path, line, size):
    with gzip.open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(line * ((1 << 20) // len(line)))


def zstd_bomb(path, line, size):
    piece = line * ((1 << 20) // len(line))
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        for _ in range(size >> 20):
            writer.write(piece)


READ = r"""
    import re, sys
    from yantai.base.errors import DataError
    from yantai.text.document import DocumentReader
    path, policy, folder = sys.argv[1:]
    try:
        for document in DocumentReader(path, policy=policy, quarantine=folder):
            pass
        print("read")
    except DataError as error:
        print(error.code, error.what)
    # not ru_maxrss, which a child inherits from the process that started it
    status = open("/proc/self/status").read()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
"""


def read_in_another_process(path, policy):
    command = [sys.executable, "-c", textwrap.dedent(READ), path, policy, path.parent / "q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said, megabytes = done.stdout.splitlines()
    return said, int(megabytes)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "quarantine"])
@pytest.mark.parametrize("line", [b"\0", BLANK, ROW], ids=["nul", "blank", "row"])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, line, policy):
    """10 GiB in under 1.3 MB of zstd, of one row without an end, of blank lines, of good rows."""
    path = tmp_path / "a.jsonl.zst"
    zstd_bomb(path, line, 320 << 20)
    frame = path.read_bytes()
    path.write_bytes(frame * 32)  # joined frames: 10 GiB, made quickly
    assert path.stat().st_size < 1_300_000
    said, megabytes = read_in_another_process(path, policy)
    assert said.startswith("E303") and "over 1,000:1" in said
    assert megabytes <= 256


@pytest.mark.slow
def test_a_gzip_bomb_is_refused_too(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    gzip_bomb(path, b" " * 65535 + b"\n", 100 << 20)
    said, megabytes = read_in_another_process(path, "stop")
    assert said.startswith("E303") and "over 1,000:1" in said
    assert megabytes <= 256


@pytest.mark.slow
def test_a_row_of_500_megabytes_is_quarantined_in_bounded_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "one"}\n{"text": "')
        for _ in range(500):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "two"}\n')
    said, megabytes = read_in_another_process(path, "quarantine")
    assert said == "read"
    assert megabytes <= 256
    large = tmp_path / "q" / "row-00001.raw"
    assert large.stat().st_size == (500 << 20) + len('{"text": ""}')
    record = json.loads((tmp_path / "q" / "rows.jsonl").read_text())
    assert (record["line"], record["byte"], record["code"]) == (2, 16, "E308")
    said, megabytes = read_in_another_process(path, "stop")
    assert said.startswith("E308 the row is larger than max_row_bytes, 67,108,864 bytes")
    large.unlink()


def test_a_packed_file_that_is_highly_regular_is_no_bomb(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    zstd_bomb(path, ROW, 32 << 20)
    assert path.stat().st_size * 1000 < 32 << 20
    assert sum(1 for _ in DocumentReader(path)) == (32 << 20) // len(ROW)
