import gc
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError, ModelFileError, StorageError, UsageError
from yantai.data import shards as module
from yantai.data.shards import Shards, write_shards
from yantai.text.document import Document, DocumentReader
from yantai.text.reading_account import RowAccount


class Bytes:
    """A tokenizer of bytes: BOS 256, EOS 257; `~` has no token at all."""

    bos_id, eos_id, vocab_size, hash = 256, 257, 258, "0" * 64

    def encode_batch(self, texts):
        return [list(text.replace("~", "").encode()) for text in texts]


class Wide(Bytes):
    bos_id, eos_id, vocab_size = 70_000, 70_001, 70_002

    def encode_batch(self, texts):
        return [[ord(char) for char in text] for text in texts]


class NoStart(Bytes):
    bos_id = None


def documents(*texts):
    return [Document(text, f"a.jsonl:{i + 1}", "a.jsonl", i + 1) for i, text in enumerate(texts)]


def write_rows(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def content_of(folder):
    return {
        str(path.relative_to(folder)): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
    }


def test_importing_needs_no_torch():
    code = "import sys, yantai.data.shards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("tokenizer", "dtype"), [(Bytes(), "uint16"), (Wide(), "uint32"), (NoStart(), "uint16")]
)
def test_round_trip(tmp_path, tokenizer, dtype):
    texts = ["one", "砚台", "", "three\n"]
    texts.remove("")
    shards = write_shards(documents(*texts), tokenizer, tmp_path / "tokens", shard_tokens=5)
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    each = [[*start, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    stream = [i for ids in each for i in ids]
    tokens = shards.tokens(0, shards.token_count)
    assert tokens.tolist() == stream and tokens.dtype == np.dtype(dtype)
    assert shards.starts.tolist() == np.cumsum([0, *map(len, each)]).tolist()
    assert shards.document_bytes.tolist() == [3, 6, 6]
    assert (shards.document_count, shards.byte_count) == (3, 15)
    assert list(shards.document_ids()) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert shards.tokenizer_hash == "0" * 64
    assert len(list((tmp_path / "tokens").glob("shard-*.bin"))) == -(-len(stream) // 5)


def test_the_files_are_little_endian_and_as_documented(tmp_path):
    write_shards(documents("a"), Bytes(), tmp_path / "t")
    assert (tmp_path / "t/shard-00000.bin").read_bytes() == b"\x00\x01a\x00\x01\x01"
    assert (tmp_path / "t/starts.bin").read_bytes() == bytes(8) + b"\3" + bytes(7)
    assert (tmp_path / "t/bytes.bin").read_bytes() == b"\1" + bytes(7)
    assert (tmp_path / "t/ids.list").read_text() == '"a.jsonl:1"\n'
    write_shards(documents("a"), Wide(), tmp_path / "w")
    assert (tmp_path / "w/shard-00000.bin").read_bytes() == bytes.fromhex(
        "701101006100000071110100"
    )


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12),
    shard_tokens=st.integers(1, 40),
    batch=st.integers(1, 5),
    data=st.data(),
)
def test_any_range_equals_the_same_range_of_the_concatenation(
    tmp_path_factory, texts, shard_tokens, batch, data
):
    texts = [text.replace("~", "-") for text in texts]
    stream = [i for text in texts for i in [256, *text.encode(), 257]]
    folder = tmp_path_factory.mktemp("range") / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_DOCUMENTS", batch)
        patch.setattr(module, "OPEN_SHARDS", 2)
        shards = write_shards(documents(*texts), Bytes(), folder, shard_tokens=shard_tokens)
        assert shards.token_count == len(stream)
        for _ in range(5):
            start = data.draw(st.integers(0, len(stream)))
            stop = data.draw(st.integers(start, len(stream)))
            assert shards.tokens(start, stop).tolist() == stream[start:stop]
    for start, stop in [(-1, 1), (2, 1), (0, len(stream) + 1)]:
        with pytest.raises(IndexError):
            shards.tokens(start, stop)


def test_tokens_are_a_copy(tmp_path):
    shards = write_shards(documents("abc"), Bytes(), tmp_path / "t")
    shards.tokens(0, 3)[:] = 7
    assert shards.tokens(0, 3).tolist() == [256, 97, 98]
    with pytest.raises(ValueError, match="read-only"):
        shards.starts[0] = 1


# The manifest


def test_the_manifest_carries_the_chain(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", "one", "", "~", "one", "two")
    reader = DocumentReader(path)
    shards = write_shards(reader, Bytes(), tmp_path / "t")
    manifest = json.loads((tmp_path / "t/manifest.json").read_text())
    assert manifest == shards.manifest
    assert (manifest["documents"], manifest["tokens"], manifest["bytes"]) == (3, 15, 9)
    assert manifest["duplicate_documents"] == 1
    [source] = manifest["sources"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    read, tokenize = manifest["accounts"]["read"], manifest["accounts"]["tokenize"]
    assert (read["rows_in"], read["rows_out"], read["dropped"]) == (5, 4, {"empty text": 1})
    assert (tokenize["rows_in"], tokenize["rows_out"]) == (4, 3)
    assert tokenize["dropped"] == {"no tokens": 1}
    assert tokenize["first"] == {"no tokens": ["a.jsonl:3"]}
    for name, entry in manifest["files"].items():
        content = (tmp_path / "t" / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_hash_is_of_the_content_and_not_of_the_place(tmp_path):
    hashes = []
    for folder, texts in (("a", ["x", "y"]), ("b", ["x", "y"]), ("c", ["x", "z"])):
        (tmp_path / folder).mkdir()
        reader = DocumentReader(write_rows(tmp_path / folder / "a.jsonl", *texts))
        hashes.append(write_shards(reader, Bytes(), tmp_path / folder / "t").hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_account_that_does_not_add_up_writes_nothing(tmp_path):
    for account in (RowAccount(rows_in=3, rows_out=2), RowAccount(rows_in=3, rows_out=3)):
        with pytest.raises(DataError) as caught:
            write_shards(documents("a", "b"), Bytes(), tmp_path / "t", account=account)
        assert caught.value.code == "E310"
        assert list(tmp_path.iterdir()) == []


def test_nothing_left_says_what_took_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n{"text": " "}\n{"text": 5}\n{"text": "~"}\n')
    reader = DocumentReader(path, policy="quarantine", quarantine=tmp_path / "q")
    with pytest.raises(DataError) as caught:
        write_shards(reader, Bytes(), tmp_path / "t")
    assert caught.value.code == "E305"
    assert (
        "no training tokens are left of 4 rows (2 dropped: empty text, 1 quarantined: "
        "text is not a string; 1 dropped: no tokens)"
    ) in str(caught.value)
    assert not (tmp_path / "t").exists()
    with pytest.raises(DataError, match="there was nothing to read"):
        write_shards([], Bytes(), tmp_path / "t")


@pytest.mark.parametrize("ids", [[258], [-1], [2**40], [256], [257]])
def test_ids_that_no_text_may_have_are_refused(tmp_path, ids):
    class Wrong(Bytes):
        def encode_batch(self, texts):
            return [[97, *ids] if text == "bad" else [97] for text in texts]

    with pytest.raises(ModelFileError, match=f"at a.jsonl:2: the id {ids[0]} came out") as caught:
        write_shards(documents("good", "bad"), Wrong(), tmp_path / "t")
    assert caught.value.code == "E405"
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = Bytes()
    tokenizer.eos_id = None
    with pytest.raises(ModelFileError):
        write_shards(documents("a"), tokenizer, tmp_path / "t")


def test_batches_are_bounded(tmp_path, monkeypatch):
    sizes = []

    class Watch(Bytes):
        def encode_batch(self, texts):
            sizes.append((len(texts), sum(map(len, texts))))
            return super().encode_batch(texts)

    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 10)
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    texts = ["x"] * 25 + ["y" * 60] * 5
    write_shards(documents(*texts), Watch(), tmp_path / "t")
    assert [count for count, _ in sizes] == [10, 10, 7, 2, 1]
    assert max(size for _, size in sizes) < 100 + 60


# Replacing, damage


def test_old_shards_are_replaced_and_other_folders_are_not(tmp_path):
    folder = tmp_path / "t"
    first = write_shards(documents("one"), Bytes(), folder)
    second = write_shards(documents("two"), Bytes(), folder)
    assert first.hash != second.hash == Shards.open(folder, verify=True).hash
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="would be replaced") as caught:
        write_shards(documents("one"), Bytes(), tmp_path / "home")
    assert caught.value.code == "E204"
    assert (tmp_path / "home/thesis.txt").read_text() == "years"


def test_shards_that_are_replaced_while_they_are_open_are_never_mixed(tmp_path):
    folder = tmp_path / "t"
    first = write_shards(documents("one", "two"), Bytes(), folder, shard_tokens=5)
    parcel = pickle.dumps(first)
    assert bytes(first.tokens(1, 4).astype("u1")) == b"one"
    second = write_shards(documents("six", "ten"), Bytes(), folder, shard_tokens=5)
    assert bytes(first.tokens(1, 4).astype("u1")) == b"one"  # mapped already: its own inode
    assert bytes(second.tokens(1, 4).astype("u1")) == b"six"
    for read in (lambda: first.tokens(5, 10), lambda: pickle.loads(parcel)):
        with pytest.raises(DataError) as caught:
            read()
        assert caught.value.code == "E311"


def test_a_failing_source_leaves_the_old_shards(tmp_path):
    folder = tmp_path / "t"
    write_shards(documents("one"), Bytes(), folder)
    before = content_of(tmp_path)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "two"}\n{')
    with pytest.raises(DataError, match="ends too early"):
        write_shards(DocumentReader(path), Bytes(), folder)
    path.unlink()
    assert content_of(tmp_path) == before


FILES = ["shard-00000.bin", "shard-00002.bin", "starts.bin", "bytes.bin", "ids.list"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "short", "long", "flipped"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    folder = tmp_path / "t"
    write_shards(documents("one", "two", "three"), Bytes(), folder, shard_tokens=6)
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes(
            {"short": content[:-1], "long": content + b"0", "flipped": flipped}[damage]
        )
    with pytest.raises(DataError) as caught:
        Shards.open(folder, verify=damage == "flipped")
    assert (caught.value.code, caught.value.where) == ("E311", str(path))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 10**15},
        {"tokens": "many"},
        {"tokens": -1},
        {"documents": 2},
        {"dtype": "<u4"},
        {"dtype": "O"},
        {"shard_tokens": 0},
        {"version": 2},
        {"format": "other"},
        {"files": {}},
        {"files": None},
        {"tokenizer_hash": "1" * 64},
        {"sources": [{"sha256": "2" * 64}]},
    ],
)
@pytest.mark.parametrize("rehashed", [False, True])
def test_a_manifest_that_was_changed_is_not_believed(tmp_path, change, rehashed):
    folder = tmp_path / "t"
    write_shards(documents("one", "two", "three"), Bytes(), folder, shard_tokens=6)
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **change}
    if rehashed:
        manifest["hash"] = module._content_hash(manifest)
    path.write_text(json.dumps(manifest))
    if rehashed and set(change) <= {"tokenizer_hash", "sources"}:
        assert Shards.open(folder).hash == manifest["hash"]  # nothing else can tell
        return
    with pytest.raises(DataError) as caught:
        Shards.open(folder)
    assert (caught.value.code, caught.value.where) == ("E311", str(path))


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b"{}", b'{"format": 1}'])
def test_a_folder_without_a_manifest(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        Shards.open(tmp_path)
    assert (caught.value.code, caught.value.where) == ("E311", str(tmp_path / "manifest.json"))


def test_many_opens_leak_no_descriptors(tmp_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    folder = tmp_path / "t"
    write_shards(documents("x" * 500), Bytes(), folder, shard_tokens=2).close()
    gc.collect()
    before = descriptors()
    for _ in range(50):
        shards = Shards.open(folder)
        shards.tokens(0, shards.token_count)
        assert descriptors() <= before + module.OPEN_SHARDS
        shards.close()
        assert descriptors() == before
    for _ in range(50):
        Shards.open(folder).tokens(0, 10)
    assert descriptors() == before


def test_a_worker_gets_the_folder_and_not_the_data(tmp_path):
    shards = write_shards(documents("x" * 10_000), Bytes(), tmp_path / "t")
    shards.tokens(0, 10)
    content = pickle.dumps(shards)
    assert len(content) < 500
    assert pickle.loads(content).tokens(0, 3).tolist() == [256, 120, 120]


# Kills and full disks (F40, F42, F43)

WRITE = """
    import json, os, random, resource, signal, sys
    from pathlib import Path
    from yantai.data.shards import write_shards
    from yantai.text.document import DocumentReader

    class Bytes:
        bos_id, eos_id, vocab_size, hash = 256, 257, 258, "0" * 64
        def encode_batch(self, texts):
            return [list(text.encode()) for text in texts]

    source, folder, largest, exhaustive = sys.argv[1:]
    if int(largest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    calls = kill_at = 0
    def count(function):
        def counted(*args, **settings):
            global calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **settings)
        return counted
    for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink"):
        setattr(os, name, count(getattr(os, name)))
    # A fork spares the start of Python. Each child dies one call later than the one before it,
    # until one lives.
    while int(exhaustive):
        kill_at += 1
        child = os.fork()
        if not child:
            folder = f"{folder}/{kill_at}/tokens"
            break
        if os.waitpid(child, 0)[1] == 0:
            sys.exit()
    reader = DocumentReader(source, policy="quarantine", quarantine=Path(folder).parent / "q")
    try:
        write_shards(reader, Bytes(), Path(folder), shard_tokens=40_000)
    except Exception as error:
        print(error.code, error)
        sys.exit(error.exit_status)
"""


def run(source, folder, largest=0, exhaustive=0):
    arguments = map(str, (source, folder, largest, exhaustive))
    command = [sys.executable, "-c", textwrap.dedent(WRITE), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rerun(source, folder):
    reader = DocumentReader(source, policy="quarantine", quarantine=folder.parent / "q")
    write_shards(reader, Bytes(), folder, shard_tokens=40_000)


@pytest.fixture
def unbroken(tmp_path, request):
    rng = random.Random(43)
    source = tmp_path / "raw.jsonl"
    with source.open("w") as file:
        for number in range(getattr(request, "param", 1500)):
            file.write(json.dumps({"text": "".join(rng.choices("abc ", k=60))}) + "\n")
            if number % 500 == 0:
                file.write('{"text": 5}\n{"text": ""}\n')
    (tmp_path / "unbroken").mkdir()
    rerun(source, tmp_path / "unbroken/tokens")
    return source, content_of(tmp_path / "unbroken")


def rows_of(folder):
    manifest = Shards.open(folder, verify=True).manifest
    read, tokenize = manifest["accounts"]["read"], manifest["accounts"]["tokenize"]
    good = tokenize["rows_in"]
    assert good in (1500, 9000) and read["rows_out"] == good
    assert read["rows_in"] == good + 2 * good // 500


@pytest.mark.slow
def test_killed_at_every_call_that_changes_the_disk(tmp_path, unbroken):
    """The folder holds older shards, so that the exchange of the two is killed as well."""
    source, expected = unbroken
    new = Shards.open(tmp_path / "unbroken/tokens").hash
    old = write_shards(documents("old"), Bytes(), tmp_path / "old").hash
    places = [tmp_path / "places" / str(kill_at) for kill_at in range(1, 100)]
    for place in places:
        shutil.copytree(tmp_path / "old", place / "tokens")
    process = run(source, tmp_path / "places", exhaustive=1)
    process.communicate()
    assert process.returncode == 0
    found = []
    for place in places:
        if (place / "tokens").exists():  # whole, or not there at all
            found.append(Shards.open(place / "tokens", verify=True).hash)
        if found[-1:] == [new] and content_of(place) == expected:
            break  # this one lived
        rerun(source, place / "tokens")
        rows_of(place / "tokens")
        assert content_of(place) == expected  # and nothing else lies about
    assert place != places[-1]
    assert len(found) > 15 and set(found) == {old, new} and found.index(new) > 10


@pytest.mark.slow
@pytest.mark.parametrize("unbroken", [9000], indirect=True)
def test_killed_at_random_moments(tmp_path, unbroken):
    source, expected = unbroken
    rng = random.Random(9)
    place = tmp_path / "place"
    place.mkdir()
    killed = 0
    for _ in range(8):
        process = run(source, place / "tokens")
        time.sleep(rng.uniform(0.1, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if (place / "tokens").exists():
            rows_of(place / "tokens")
    assert killed
    rerun(source, place / "tokens")
    assert content_of(place) == expected


def test_a_full_disk_leaves_nothing(tmp_path, unbroken):
    source, expected = unbroken
    place = tmp_path / "place"
    place.mkdir()
    process = run(source, place / "tokens", largest=60_000)
    said = process.communicate()[0]
    assert process.returncode == 5 and said.startswith("E502") and "no space (EFBIG)" in said
    assert [path.name for path in place.iterdir()] == ["q"]
    rerun(source, place / "tokens")
    assert content_of(place) == expected


def test_another_writer_that_lives_is_left_alone(tmp_path):
    living = tmp_path / f".tmp-{os.getppid()}-t"
    living.mkdir()
    dead = tmp_path / ".tmp-999999999-t"
    dead.mkdir()
    write_shards(documents("a"), Bytes(), tmp_path / "t")
    assert living.exists() and not dead.exists()


def test_a_disk_that_refuses_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="EIO"):
        write_shards(documents("a"), Bytes(), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_documents(tmp_path, monkeypatch):
    def stream(count):
        for number in range(count):
            yield Document(f"{number} " + "x" * 1000, f"a:{number}", "a", number)

    monkeypatch.setattr(module, "BATCH_BYTES", 100_000)
    peaks = []
    for count in (300, 3000):
        tracemalloc.start()
        write_shards(stream(count), Bytes(), tmp_path / "t")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000  # of 6,000,000 bytes of tokens
    assert (tmp_path / "t/shard-00000.bin").stat().st_size > 6_000_000
