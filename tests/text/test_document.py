import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError, StorageError, UsageError
from yantai.text.document import Document, DocumentReader, kind_of
from yantai.text.reading_account import RowAccount, check_stages, read_quarantine


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(*texts):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def texts(reader):
    return [document.text for document in reader]


def quarantined(path, **settings):
    return DocumentReader(path, policy="quarantine", quarantine=path.parent / "q", **settings)


def test_importing_needs_no_torch():
    code = "import sys, yantai.text.document; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Kinds


def test_a_document_is_small_frozen_and_knows_its_bytes():
    document = Document("砚台!", "a.txt", "a.txt", 1)
    assert document.size_bytes == 7
    assert Document("ink", "a", "a", 1).size_bytes == 3
    assert not hasattr(document, "__dict__")
    with pytest.raises(AttributeError):
        document.text = "x"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", ("text", "")),
        ("a.MD", ("page", "")),
        ("a.jsonl.gz", ("rows", "gz")),
        ("a.ndjson.ZST", ("rows", "zst")),
        ("a.json", ("json", "")),
        ("a.gz", None),
        ("a.csv", None),
        ("txt", None),
        (".txt", None),
    ],
)
def test_kind_of(name, kind):
    assert kind_of(name) == kind


def test_text_is_unchanged_to_the_byte(tmp_path):
    content = "  one\r\n\r\ntwo \n\n\n"
    for name in ("a.txt", "a.md"):
        path = write(tmp_path, name, content)
        assert list(DocumentReader(path)) == [Document(content, name, name, 1)]


def test_text_by_line(tmp_path):
    path = write(tmp_path, "a.txt", "one\r\n \n two \nthree")
    reader = DocumentReader(path, split="line")
    assert [(d.text, d.id, d.line) for d in reader] == [
        ("one", "a.txt:1", 1),
        (" two ", "a.txt:3", 3),
        ("three", "a.txt:4", 4),
    ]
    assert reader.account.dropped == {"empty text": 1}
    assert reader.account.first == {"empty text": ["a.txt:2:5"]}


def test_text_by_blank_line(tmp_path):
    path = write(tmp_path, "a.txt", "\n \n  one\r\ntwo\n \t\r\n\nthree\n\n\n")
    reader = DocumentReader(path, split="blank_line")
    assert [(d.text, d.id) for d in reader] == [("  one\r\ntwo", "a.txt:3"), ("three", "a.txt:7")]
    assert reader.account.rows_in == reader.account.rows_out == 2


def test_a_line_of_spaces_has_the_limit_of_a_row_too(tmp_path):
    path = write(tmp_path, "a.txt", b"one\n" + b" " * 3_000_000 + b"\n\ntwo")
    reader = quarantined(path, split="blank_line", max_row_bytes=1000)
    assert texts(reader) == ["two"]
    [(record, raw)] = read_quarantine(tmp_path / "q")
    assert record["reason"] == "larger than the limit" and raw == path.read_bytes()[:3_000_005]


@settings(max_examples=100, deadline=None)
@given(
    content=st.text(alphabet="ab \t\r\n", max_size=60),
    size=st.integers(1, 9),
    split=st.sampled_from(["line", "blank_line", "file"]),
)
def test_rows_do_not_depend_on_where_the_pieces_are_cut(tmp_path_factory, content, size, split):
    path = write(tmp_path_factory.mktemp("cut"), "a.txt", content)
    expected = list(DocumentReader(path, split=split))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yantai.text.reading.PIECE_BYTES", size)
        assert list(DocumentReader(path, split=split)) == expected


def test_rows_and_lines_and_their_ends(tmp_path):
    content = b'{"text": "one"}\r\n\n{"id": 7, "text": "two"}\n \t\r\n{"text": "three"}'
    reader = DocumentReader(write(tmp_path, "a.jsonl", content))
    assert [(d.text, d.id) for d in reader] == [
        ("one", "a.jsonl:1"),
        ("two", "a.jsonl:3"),
        ("three", "a.jsonl:5"),
    ]
    assert reader.account.dropped == {"blank line": 2}
    assert reader.account.rows_in == 5


def test_a_json_file_holds_lines_or_an_array(tmp_path):
    as_lines = write(tmp_path, "lines.json", rows("a", "b"))
    assert texts(DocumentReader(as_lines)) == ["a", "b"]
    array = write(tmp_path, "array.json", ' \n[\n {"text": "a]},{"},\n {"text": "\\"b"}\n]\n')
    assert [(d.text, d.id, d.line) for d in DocumentReader(array)] == [
        ("a]},{", "array.json:3[0]", 3),
        ('"b', "array.json:4[1]", 4),
    ]
    assert texts(DocumentReader(write(tmp_path, "empty.json", "[ ]"))) == []
    assert texts(DocumentReader(write(tmp_path, "none.json", " \n"))) == []


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(
        st.dictionaries(
            st.text(max_size=3),
            st.recursive(
                st.text(alphabet='\\"[]{},\n ab砚', max_size=6),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=4,
            ),
            max_size=3,
        ),
        max_size=5,
    ),
    size=st.integers(1, 20),
    indent=st.sampled_from([None, 1]),
)
def test_any_array_is_cut_into_its_elements(tmp_path_factory, values, size, indent):
    values = [{**value, "text": f"row {i}"} for i, value in enumerate(values)]
    content = json.dumps(values, ensure_ascii=False, indent=indent)
    path = write(tmp_path_factory.mktemp("array"), "a.json", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yantai.text.reading.PIECE_BYTES", size)
        documents = list(DocumentReader(path))
    assert [d.text for d in documents] == [f"row {i}" for i in range(len(values))]
    if indent and values:
        content_lines = content.split("\n")
        assert all(content_lines[d.line - 1].strip() == "{" for d in documents)


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        ('[{"text": "a"},]', 1, {"trailing comma": 1}),
        ('[{"text": "a"},, {"text": "b"}]', 2, {"missing element": 1}),
        ('[{"text": "a"}', 1, {"truncated JSON": 1}),
        ('[{"text": "a"}, {"te', 1, {"truncated JSON": 1}),
        ('[{"text": "a"}, {"text": "b\\', 1, {"truncated JSON": 1}),
        ('[{"text": "a"}] [{"text": "b"}]', 1, {"content after the array": 1}),
        ('[{"text": "a",}, {"text": NaN}, 5, {"text": "b"}]', 1, None),
        ('[{"text": "a"} {"text": "b"}, {"text": "c"}]', 1, {"not valid JSON": 1}),
    ],
)
def test_damaged_arrays(tmp_path, content, good, bad):
    reader = quarantined(write(tmp_path, "a.json", content))
    assert len(list(reader)) == good
    expected = {"trailing comma": 1, "NaN or Infinity": 1, "not an object": 1}
    assert reader.account.quarantined == (expected if bad is None else bad)


# Folders


def test_a_folder_is_read_in_order_and_counts_what_it_does_not_read(tmp_path):
    raw = tmp_path / "raw"
    write(raw, "b/2.txt", "two")
    write(raw, "b/10.txt", "ten")
    write(raw, "a.jsonl", rows("one"))
    write(raw, "manifest.json", '{"rows": 1}')
    write(raw, "quarantine/rows.jsonl", "{}")
    write(raw, ".hidden.txt", "no")
    write(raw, ".git/x.txt", "no")
    for number in range(12):
        write(raw, f"c/{number:02d}.pdf", "%PDF")
    (raw / "link").symlink_to(raw / "b")
    reader = DocumentReader(raw)
    assert [d.id for d in reader] == ["a.jsonl:1", "b/10.txt", "b/2.txt"]
    assert reader.account.files_skipped == {
        "unsupported kind": 12,
        "a record of Yantai": 2,
        "not a regular file": 1,
    }
    names = [f"c/{number:02d}.pdf" for number in range(10)]
    assert reader.account.first_skipped["unsupported kind"] == names
    assert [source["name"] for source in reader.sources] == ["a.jsonl", "b/10.txt", "b/2.txt"]


def test_ids_tell_files_of_one_name_apart(tmp_path):
    paths = [write(tmp_path, f"{folder}/x.txt", folder) for folder in ("a", "b")]
    assert [d.id for d in DocumentReader(paths)] == ["a/x.txt", "b/x.txt"]
    assert [d.id for d in DocumentReader(str(paths[0]))] == ["x.txt"]


def test_reading_twice_gives_the_same(tmp_path):
    reader = DocumentReader(write(tmp_path, "a.jsonl", rows("a", "", "b")))
    account, sources = reader.account, reader.sources
    first = (list(reader), account.as_dict(), list(sources))
    assert (list(reader), account.as_dict(), list(sources)) == first
    assert reader.account is account and reader.sources is sources


def test_names_that_are_not_utf8_become_text(tmp_path):
    path = tmp_path / "caf\udce9.txt"
    path.write_text("ink")
    assert [d.id for d in DocumentReader(tmp_path)] == ["caf\\xe9.txt"]


@pytest.mark.parametrize(
    ("build", "error", "code", "said"),
    [
        (lambda f: f / "none.txt", UsageError, "E206", "there is no such file"),
        (lambda f: [], UsageError, "E206", "no file or folder is named"),
        (lambda f: write(f, "a.csv", "x"), DataError, "E309", "expected .txt, .md, .jsonl"),
        (lambda f: f, DataError, "E305", "there is no file to read"),
        (lambda f: [write(f, "a.txt", "x"), f], UsageError, "E201", "named twice"),
    ],
)
def test_paths_that_cannot_be_read(tmp_path, build, error, code, said):
    paths = build(tmp_path)
    with pytest.raises(error, match=said) as caught:
        DocumentReader(paths)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"policy": "skip"}, "E201"),
        ({"split": "word"}, "E201"),
        ({"policy": "quarantine"}, "E201"),
        ({"encoding": "utf-9"}, "E201"),
        ({"encoding": "base64"}, "E201"),
    ],
)
def test_settings_that_are_wrong(tmp_path, settings, code):
    path = write(tmp_path, "a.txt", "x")
    with pytest.raises(UsageError) as caught:
        DocumentReader(path, **settings)
    assert caught.value.code == code


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_byte_order_marks(tmp_path, encoding, name):
    content = "第一" if name == "a.txt" else '{"text": "第一"}\n{"text": "second"}\n'
    path = write(tmp_path, name, content.encode(encoding))
    assert texts(DocumentReader(path))[0] == "第一"


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le", "utf-32-be", "big5", "latin-1"])
def test_named_encodings(tmp_path, encoding):
    said = "déjà" if encoding == "latin-1" else "中文"
    path = write(tmp_path, "a.jsonl", rows(said, "ink", said * 400).encode(encoding))
    assert texts(DocumentReader(path, encoding=encoding)) == [said, "ink", said * 400]
    path = write(tmp_path, "a.txt", said.encode(encoding))
    assert texts(DocumentReader(path, encoding=encoding)) == [said]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("这是一个人们说的国家,在中国。" * 3, "gb18030"),
        ("這個國家的人說的是中國話。" * 3, "big5"),
        ("déjà vu, naïveté, à la carte", "latin-1"),
    ],
)
def test_text_in_another_encoding_is_told_which(tmp_path, text, encoding):
    path = write(tmp_path, "a.txt", b"ink: " + text.encode(encoding))
    with pytest.raises(DataError) as caught:
        list(DocumentReader(path))
    byte = 5 if encoding != "latin-1" else 6
    assert caught.value.code == "E302"
    assert caught.value.where == f"{path}:{byte}"
    assert f"--encoding {encoding} or pass --on-bad-row quarantine" in str(caught.value)
    assert texts(DocumentReader(path, encoding=encoding)) == ["ink: " + text]


def test_a_lone_surrogate_in_utf16_spoils_only_its_line(tmp_path):
    content = "\ufeffone\nt\ud800wo\nthree".encode("utf-16-le", "surrogatepass")
    reader = quarantined(write(tmp_path, "a.txt", content), split="line")
    assert texts(reader) == ["one", "three"]
    assert reader.account.quarantined == {"not valid UTF-8": 1}
    cut = write(tmp_path, "cut.txt", content[:-1])
    with pytest.raises(DataError, match="not valid utf-16") as caught:
        list(quarantined(cut, split="line"))
    assert (caught.value.code, caught.value.where) == ("E302", f"{cut}:{len(content) - 2}")


def test_packed_data_without_its_suffix_is_recognised(tmp_path):
    path = write(tmp_path, "a.jsonl", b"\x1f\x8b\x08\x00\x00")
    with pytest.raises(DataError, match=r"packed data \(\.gz\); add \.gz to the name"):
        list(DocumentReader(path))


# Account and quarantine


def test_the_account_must_add_up():
    account = RowAccount(rows_in=5, rows_out=3)
    account.drop("empty text", "a:1:0")
    with pytest.raises(
        DataError, match="5 in, got 3 out \\+ 1 dropped \\+ 0 quarantined"
    ) as caught:
        account.check("reading")
    assert caught.value.code == "E310"
    account.quarantine("NUL byte", "a:2:9")
    account.check("reading")


def test_stages_must_join():
    read, written = RowAccount(2, 2), RowAccount(1, 1)
    with pytest.raises(DataError, match="lost between two stages; expected 2 in, got 1"):
        check_stages({"read": read, "write": written}, "out")
    check_stages({"read": read, "write": RowAccount(2, 2)}, "out")


def test_only_the_first_ten_places_are_kept(tmp_path):
    reader = DocumentReader(write(tmp_path, "a.jsonl", rows(*[""] * 25)))
    assert texts(reader) == []
    assert reader.account.dropped == {"empty text": 25}
    assert reader.account.first["empty text"] == [f"a.jsonl:{i + 1}:{13 * i}" for i in range(10)]


def test_quarantine_keeps_every_byte_and_starts_anew(tmp_path):
    bad = [b"\xff\x00{" + bytes(range(11, 256)), b'{"text": ', b'{"text": "' + b"x" * 2_000_000]
    path = write(tmp_path, "a.jsonl", b"\n".join([bad[0], b'{"text": "ok"}', *bad[1:]]))
    reader = quarantined(path, max_row_bytes=1_500_000)
    for _ in range(2):
        assert texts(reader) == ["ok"]
        kept = list(read_quarantine(tmp_path / "q"))
        assert [raw for _, raw in kept] == bad
        assert [record["line"] for record, _ in kept] == [1, 3, 4]
        assert [record["size"] for record, _ in kept] == [len(raw) for raw in bad]
        content = path.read_bytes()
        for record, raw in kept:
            assert content[record["byte"] : record["byte"] + record["size"]] == raw
    assert sorted(file.name for file in (tmp_path / "q").iterdir()) == [
        "row-00001.raw",
        "rows.jsonl",
    ]


def test_without_bad_rows_there_is_no_quarantine(tmp_path):
    assert texts(quarantined(write(tmp_path, "a.jsonl", rows("a")))) == ["a"]
    assert not (tmp_path / "q").exists()
    assert list(read_quarantine(tmp_path / "q")) == []


def test_a_quarantine_that_cannot_be_written_is_a_storage_error(tmp_path):
    path = write(tmp_path, "a.jsonl", "{\n")
    write(tmp_path, "q", "a file is in the way")
    with pytest.raises(StorageError) as caught:
        list(quarantined(path))
    assert caught.value.code == "E501"


def test_the_account_holds_at_every_moment(tmp_path):
    path = write(tmp_path, "a.jsonl", rows("a", "", "b", "c") + "{\n" + rows("d"))
    reader = quarantined(path)
    for _ in reader:
        reader.account.check()
    assert (reader.account.rows_in, reader.account.rows_out) == (6, 4)
