"""Section C of the faults, as far as reading goes: F35, F36, F38, F40, F41.

F37 is in `tests/text/test_document_packed.py`; F42 and F43 in `tests/data/test_shards.py`.
"""

import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError
from yantai.text.document import DocumentReader
from yantai.text.reading_account import read_quarantine

MEND = "mend the row or pass --on-bad-row quarantine"

# name: (raw row, reason it is counted under, code, the rest of the line under the policy stop)
FAULTS = {
    "truncated": (
        b'{"text": "one two',
        "truncated JSON",
        "E301",
        f"the JSON ends too early, at character 18 of the row; {MEND}",
    ),
    "truncated value": (
        b'{"text": ',
        "truncated JSON",
        "E301",
        f"the JSON ends too early, at character 9 of the row; {MEND}",
    ),
    "truncated before brackets": (
        b'{"text": "' + b"[{" * 500,
        "truncated JSON",
        "E301",
        f"the JSON ends too early, at character 1,011 of the row; {MEND}",
    ),
    "trailing comma": (
        b'{"text": "a", }',
        "trailing comma",
        "E301",
        f"a trailing comma at character 13 of the row; {MEND}",
    ),
    "comma after the row": (
        b'{"text": "a"},',
        "trailing comma",
        "E301",
        f"a trailing comma at character 14 of the row; {MEND}",
    ),
    "comma in a list": (
        b'{"text": "a", "x": [1, ]}',
        "trailing comma",
        "E301",
        f"a trailing comma at character 22 of the row; {MEND}",
    ),
    "NaN": (b'{"text": "a", "x": NaN}', "NaN or Infinity", "E301", f"NaN is not JSON; {MEND}"),
    "Infinity": (
        b'{"text": "a", "x": [-Infinity]}',
        "NaN or Infinity",
        "E301",
        f"-Infinity is not JSON; {MEND}",
    ),
    "mark": (
        b'\xef\xbb\xbf{"text": "a"}',
        "byte-order mark",
        "E301",
        f"a byte-order mark inside the file; {MEND}",
    ),
    "NUL": (
        b'{"text": "a\0b"}',
        "NUL byte",
        "E301",
        f"a raw NUL byte at character 12 of the row; {MEND}",
    ),
    "lone surrogate": (
        b'{"text": "a\\ud800b"}',
        "lone surrogate",
        "E301",
        f"half of a surrogate pair, which is no character; {MEND}",
    ),
    "lone surrogate in a key": (
        b'{"text": "a", "\\uDFFF": 1}',
        "lone surrogate",
        "E301",
        f"half of a surrogate pair, which is no character; {MEND}",
    ),
    "deep": (
        b'{"text": "a", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        "nested too deeply",
        "E301",
        f"nested deeper than 100 levels; {MEND}",
    ),
    "very deep": (
        b'{"text": "a", "x": ' + b'{"y":[' * 100_000,
        "nested too deeply",
        "E301",
        f"nested deeper than 100 levels; {MEND}",
    ),
    "duplicate key": (
        b'{"text": "a", "x": {"y": 1, "y": 2}}',
        "duplicate key",
        "E301",
        f"the key 'y' is there twice; {MEND}",
    ),
    "no JSON": (
        b"text: a",
        "not valid JSON",
        "E301",
        f"not valid JSON at character 1 of the row (expecting value); {MEND}",
    ),
    "single quotes": (
        b"{'text': 'a'}",
        "not valid JSON",
        "E301",
        "not valid JSON at character 2 of the row "
        f"(expecting property name enclosed in double quotes); {MEND}",
    ),
    "raw tab in a string": (
        b'{"text": "a\tb"}',
        "not valid JSON",
        "E301",
        f"not valid JSON at character 12 of the row (invalid control character at); {MEND}",
    ),
    "bad UTF-8": (
        '{"text": "一二三四五六七八九十, 一二三四五六'.encode() + b"\xff" + b'"}',
        "not valid UTF-8",
        "E302",
        "not valid UTF-8 (byte 0xff) at byte 60 of the row; "
        "got text that is UTF-8 but for a few damaged bytes; "
        "mend it or pass --on-bad-row quarantine",
    ),
    "latin-1": (
        b'{"text": "caf\xe9"}',
        "not valid UTF-8",
        "E302",
        "not valid UTF-8 (byte 0xe9) at byte 13 of the row; got text that looks like latin-1; "
        "pass --encoding latin-1 or pass --on-bad-row quarantine",
    ),
    "surrogate as bytes": (
        b'{"text": "\xed\xa0\x80"}',
        "not valid UTF-8",
        "E302",
        "not valid UTF-8 (byte 0xed) at byte 10 of the row; got text that looks like latin-1; "
        "pass --encoding latin-1 or pass --on-bad-row quarantine",
    ),
    "no object": (
        b'["a"]',
        "not an object",
        "E304",
        f"the row is an array, not an object; {MEND}",
    ),
    "renamed field": (
        b'{"txt": "a", "id": 1}',
        "missing field",
        "E304",
        "no field 'text'; got 'txt', 'id'; pass --text-field NAME or pass --on-bad-row quarantine",
    ),
    "no field": (
        b"{}",
        "missing field",
        "E304",
        "no field 'text'; got no field at all; "
        "pass --text-field NAME or pass --on-bad-row quarantine",
    ),
    "null": (
        b'{"text": null}',
        "text is not a string",
        "E304",
        f"field 'text' is null, not a string; {MEND}",
    ),
    "number": (
        b'{"text": 5}',
        "text is not a string",
        "E304",
        f"field 'text' is a number, not a string; {MEND}",
    ),
    "boolean": (
        b'{"text": true}',
        "text is not a string",
        "E304",
        f"field 'text' is true or false, not a string; {MEND}",
    ),
    "list": (
        b'{"text": ["a"]}',
        "text is not a string",
        "E304",
        f"field 'text' is an array, not a string; {MEND}",
    ),
    "too large": (
        b'{"text": "' + b"x" * 700_000 + b'"}',
        "larger than the limit",
        "E308",
        "the row is larger than max_row_bytes, 650,000 bytes; "
        "set max_row_bytes higher or pass --on-bad-row quarantine",
    ),
}
LIMIT = 650_000  # above "very deep", so that depth is what is wrong with it

FINE = {
    "escaped NUL": (b'{"text": "a\\u0000b"}', "a\0b"),
    "surrogate pair": (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
    "crlf": (b'{"text": "a"}\r', "a"),
    "huge numbers": (b'{"n": ' + b"9" * 5000 + b', "x": 1e999, "text": "a"}', "a"),
    "many brackets in a string": (b'{"text": "' + b"[{" * 500 + b'"}', "[{" * 500),
    "many flat brackets": (b'{"x": [' + b"[]," * 500 + b'[]], "text": "a"}', "a"),
    "a hundred levels": (b'{"x": ' + b"[" * 99 + b"]" * 99 + b', "text": "a"}', "a"),
    "spaces": (b'  { "text" :\t"a" } ', "a"),
}
DROPPED = {
    "empty": (b'{"text": ""}', "empty text"),
    "spaces": ('{"text": " \\n\u3000"}'.encode(), "empty text"),
    "blank line": (b"  \t", "blank line"),
}


def reader_of(path, policy="quarantine"):
    quarantine = path.parent / "quarantine"
    return DocumentReader(path, policy=policy, quarantine=quarantine, max_row_bytes=LIMIT)


@pytest.mark.parametrize("name", FAULTS)
def test_the_line_that_a_person_reads(tmp_path, name):
    raw, reason, code, line = FAULTS[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + raw + b'\n{"text": "after"}\n')
    with pytest.raises(DataError) as caught:
        list(reader_of(path, "stop"))
    assert str(caught.value) == f"{path}:3:18: {line}"
    assert caught.value.code == code and caught.value.exit_status == 3

    reader = reader_of(path)
    assert [d.text for d in reader] == ["fine", "after"]
    assert reader.account.quarantined == {reason: 1}
    assert reader.account.first[reason] == ["a.jsonl:3:18"]
    [(record, kept)] = read_quarantine(tmp_path / "quarantine")
    assert kept == raw
    assert (record["file"], record["line"], record["byte"]) == ("a.jsonl", 3, 18)
    assert (record["reason"], record["code"]) == (reason, code)


@pytest.mark.parametrize("name", FINE)
def test_rows_that_only_look_bad(tmp_path, name):
    raw, text = FINE[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    assert [d.text for d in reader_of(path, "stop")] == [text]


def test_deep_rows_raise_no_recursion_error_even_with_little_stack_left(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": ' + b"[" * 90 + b"]" * 90 + b', "text": "a"}')

    def read(levels):
        return read(levels - 1) if levels else list(reader_of(path))

    import sys

    depth = 0
    frame = sys._getframe()
    while frame:
        depth, frame = depth + 1, frame.f_back
    assert len(read(sys.getrecursionlimit() - depth - 80)) in (0, 1)


def test_invalid_utf8_in_a_text_costs_its_line_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntw\xc3\xa9\xff\nthree\xc3\nfour")
    for split, texts in (("line", ["one", "four"]), ("file", [])):
        reader = DocumentReader(path, policy="quarantine", quarantine=tmp_path / "q", split=split)
        assert [d.text for d in reader] == texts
    with pytest.raises(DataError) as caught:
        list(DocumentReader(path, split="line"))
    assert caught.value.where == f"{path}:2:4"
    with pytest.raises(DataError) as caught:
        list(DocumentReader(path))
    assert (caught.value.code, caught.value.where) == ("E302", f"{path}:8")
    with_nul = tmp_path / "b.txt"
    with_nul.write_bytes(b"a\0b")
    with pytest.raises(DataError, match="NUL byte"):
        list(DocumentReader(with_nul))


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_file_that_is_one_document_has_the_same_limit(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"12345\n" * 3)
    assert len(list(DocumentReader(path, max_row_bytes=18))) == 1
    with pytest.raises(DataError, match="the file is larger than max_row_bytes, 17") as caught:
        list(DocumentReader(path, max_row_bytes=17))
    assert (caught.value.code, caught.value.where) == ("E308", f"{path}:0")
    if name == "a.txt":
        assert "split to line or blank_line" in str(caught.value)
        assert len(list(DocumentReader(path, max_row_bytes=17, split="line"))) == 3


def test_a_thousand_planted_faults_in_a_hundred_thousand_lines(tmp_path):
    rng = random.Random(35)
    kinds = [name for name in FAULTS if name not in ("very deep", "too large")]
    planted = {line: rng.choice(kinds) for line in rng.sample(range(100_000), 1000)}
    path = tmp_path / "a.jsonl"
    expected, byte = [], 0
    with path.open("wb") as file:
        for line in range(100_000):
            if line in planted:
                raw, reason = FAULTS[planted[line]][:2]
                expected.append((line + 1, byte, reason, raw))
            else:
                raw = b'{"text": "row %d", "n": [1, 2]}' % line
            file.write(raw + b"\n")
            byte += len(raw) + 1
    reader = reader_of(path)
    texts = [d.text for d in reader]
    assert texts == [f"row {line}" for line in range(100_000) if line not in planted]
    counts = {}
    for _, _, reason, _ in expected:
        counts[reason] = counts.get(reason, 0) + 1
    assert reader.account.quarantined == counts
    assert (reader.account.rows_in, reader.account.rows_out) == (100_000, 99_000)
    kept = list(read_quarantine(tmp_path / "quarantine"))
    assert [(r["line"], r["byte"], r["reason"], raw) for r, raw in kept] == expected


GOOD = st.text(min_size=1, max_size=8).filter(lambda text: text.strip())
ROWS = st.one_of(
    GOOD.map(lambda text: (json.dumps({"text": text}).encode(), text, None)),
    st.sampled_from([n for n in FAULTS if n not in ("very deep", "too large")]).map(
        lambda name: (FAULTS[name][0], None, FAULTS[name][1])
    ),
    st.sampled_from(list(FINE)).map(lambda name: (*FINE[name], None)),
    st.sampled_from(list(DROPPED)).map(lambda name: (DROPPED[name][0], None, DROPPED[name][1])),
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(ROWS, max_size=12), size=st.integers(1, 64), end=st.sampled_from([b"\n", b"\r\n"])
)
def test_any_mixture_keeps_the_account_and_the_order(tmp_path_factory, rows, size, end):
    folder = tmp_path_factory.mktemp("mixture")
    path = folder / "a.jsonl"
    while rows and rows[0][2] == "byte-order mark":
        rows = rows[1:]  # at the start of a file it is no fault
    path.write_bytes(b"".join(raw + end for raw, _, _ in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yantai.text.reading.PIECE_BYTES", size)
        reader = reader_of(path)
        texts = [d.text for d in reader]
    assert texts == [text for _, text, reason in rows if reason is None]
    bad = [reason for _, _, reason in rows if reason]
    account = reader.account
    assert account.rows_in == len(rows) == account.rows_out + len(bad)
    for reason in set(bad):
        table = account.dropped if reason in ("empty text", "blank line") else account.quarantined
        assert table[reason] == bad.count(reason)


@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_lose_only_the_lines_they_are_in(tmp_path_factory, changes):
    lines = [json.dumps({"text": f"第 {i} 行"}, ensure_ascii=False).encode() for i in range(30)]
    content = bytearray(b"\n".join(lines) + b"\n")
    for position, value in changes:
        position %= len(content)
        if content[position] != 10 and value != 10 and position >= 4:
            content[position] = value
    path = tmp_path_factory.mktemp("flips") / "a.jsonl"
    path.write_bytes(content)
    reader = reader_of(path)
    read = {d.line: d.text for d in reader}
    after = bytes(content).split(b"\n")
    for number, line in enumerate(lines):
        if after[number] == line:
            assert read[number + 1] == f"第 {number} 行"
    assert reader.account.rows_in == 30


# F41: the file changes while it is read


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "row %070d"}\n' % i for i in range(40_000)))
    return path


def grow(path):
    with path.open("ab") as file:
        file.write(b'{"text": "more"}\n')


def shrink(path):
    os.truncate(path, 1000)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def overwrite(path):
    with path.open("r+b") as file:
        file.write(b"{")


def touch(path):
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [grow, shrink, replace, overwrite, touch, os.unlink])
@pytest.mark.parametrize("moment", [0, 1, 20_000])
def test_a_source_that_changes_stops_the_reading(source, change, moment):
    before = source.stat()
    reader = DocumentReader(source)
    documents = iter(reader)
    if moment == 0 and change is not os.unlink:
        next(documents)
    for _ in range(moment):
        next(documents)
    change(source)
    with pytest.raises(DataError) as caught:
        list(documents)
    assert caught.value.code == "E306"
    assert caught.value.where == str(source)
    if change is os.unlink:
        assert "vanished" in caught.value.what
    else:
        assert f"expected {before.st_size} bytes, mtime_ns {before.st_mtime_ns}" in str(
            caught.value
        )
        assert f"mtime_ns {source.stat().st_mtime_ns}" in str(caught.value)
    assert reader.sources == []


def test_a_writer_that_never_stops_does_not_keep_the_reader_for_ever(source):
    rows = 0
    with pytest.raises(DataError) as caught:
        for _ in DocumentReader(source):
            rows += 1
            if rows % 500 == 0:
                with source.open("ab") as file:
                    file.write(b'{"text": "more"}\n' * 2000)
    assert caught.value.code == "E306" and rows < 200_000


def test_a_packed_file_that_is_still_being_written_is_not_called_damaged(tmp_path):
    import gzip

    path = tmp_path / "a.jsonl.gz"
    rows = b"".join(b'{"text": "%x"}\n' % random.Random(i).getrandbits(200) for i in range(9000))
    whole = gzip.compress(rows)
    path.write_bytes(whole[: len(whole) // 2])
    documents = iter(DocumentReader(path))
    next(documents)
    path.unlink()
    path.write_bytes(whole)
    with pytest.raises(DataError) as caught:
        list(documents)
    assert caught.value.code == "E306"


def test_a_source_that_stays_is_described(source):
    import hashlib

    reader = DocumentReader(source)
    assert sum(1 for _ in reader) == 40_000
    stat = source.stat()
    assert reader.sources == [
        {
            "path": str(source),
            "name": "a.jsonl",
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        }
    ]
