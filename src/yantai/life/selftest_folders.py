"""Damage model folders in ways a person would not think of, and see that each gets an answer.

Knows: four small folders of different make, and how a file is made wrong: bytes, JSON values,
headers of tensors. An answer is a model that works, or an error of exit status 4. Anything else is
a failure: another exception, a crash, more than 10 s, 256 MB more memory. Damage number n depends
on seed + n alone. Run as a program it opens such folders, a line on standard output for each.
"""

import copy
import itertools
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yantai.life.selftest_runs import write_corpus

PROGRAM = "yantai.life.selftest_folders"
SECONDS, BYTES = 10, 2**28
Way = Callable[[bytes, random.Random], bytes]
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "\0", "../x",
    "/dev/zero", "a" * 10_000, "\ud800", [], {}, [[]], [None], {"": None}, [0] * 1000,
]  # fmt: skip
SIZES: dict[str, Any] = {
    "layers": 1,
    "dim": 16,
    "hidden": 24,
    "context": 32,
    "size": "nano",
    "steps": 1,
}
KINDS: dict[str, Any] = {"llama": "bpe", "bert": "wordpiece", "t5": "unigram", "lstm": "bpe"}


def damage_folders(folder: Path, count: int, *, seed: int = 0) -> dict[str, Any]:
    """F21, F22, F25, F26: so many damaged folders, one after the other.

    Returns:
        Figures, and `failures`.
    """
    figures = {"damaged_folders": 0, "refused": 0, "opened": 0}
    failures = []
    while figures["damaged_folders"] < count:
        first = seed + figures["damaged_folders"]
        asked = [str(folder), str(first), str(count - figures["damaged_folders"])]
        with subprocess.Popen(
            [sys.executable, "-m", PROGRAM, *asked],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            answers = [json.loads(line) for line in child.stdout]
            status = child.wait()
        if status or not answers:
            answers.append({"outcome": f"the process ended with {status}"})
        for number, answer in enumerate(answers, first):
            figures["damaged_folders"] += 1
            if answer["outcome"] in figures:
                figures[answer["outcome"]] += 1
                continue
            repeat = f"yantai selftest --only folders --folders 1 --seed {number}"
            what = f"{answer.get('what', 'a folder')}: {answer['outcome']}"
            failures.append({"what": what, "repeat": repeat})
    return {**figures, "failures": failures}


def damage(folder: Path, dice: random.Random) -> str:
    """Make one file of a folder wrong; returns which, and how."""
    name = dice.choice(sorted(path.name for path in folder.iterdir()))
    path = folder / name
    ways: dict[str, Way] = {"bytes": _bytes_changed, "cut": _cut, "more": _bytes_put_in}
    if name.endswith(".json"):
        ways |= {"values": _json_changed, "a key twice": _key_twice, "deep": _deep}
    if name.endswith(".safetensors"):
        ways |= {"header": _header_changed, "length": _length_changed}
    often = [6 if way in ("values", "header") else 1 for way in ways]
    way = dice.choices(list(ways), often)[0]
    path.write_bytes(ways[way](path.read_bytes(), dice))
    return f"{folder.name}/{name}, {way}"


def _bytes_changed(raw: bytes, dice: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(changed)


def _cut(raw: bytes, dice: random.Random) -> bytes:
    return raw[: dice.randrange(len(raw))]


def _bytes_put_in(raw: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(raw))
    return raw[:place] + dice.randbytes(dice.randint(1, 64)) + raw[place:]


def _key_twice(raw: bytes, dice: random.Random) -> bytes:
    table = json.loads(raw)
    key = dice.choice(list(table) or ["a"])
    again = json.dumps({key: dice.choice(HOSTILE)})
    return again.encode()[:-1] + b", " + raw.lstrip()[1:]


def _deep(raw: bytes, dice: random.Random) -> bytes:
    depth = dice.choice((50, 5_000, 200_000))
    return b'{"a": ' + b"[" * depth + b"]" * depth + b"}"


def _json_changed(raw: bytes, dice: random.Random) -> bytes:
    table = json.loads(raw)
    for _ in range(dice.randint(1, 3)):
        _change_a_place(table, dice)
    return json.dumps(table).encode()


def _change_a_place(table: Any, dice: random.Random) -> None:
    """Walk down to a random place; give it another value, another name, or none."""
    while True:
        if not isinstance(table, dict | list) or not table:
            return
        key = dice.choice(list(table) if isinstance(table, dict) else range(len(table)))
        inner = table[key]
        if isinstance(inner, dict | list) and inner and dice.random() < 0.8:
            table = inner
            continue
        how = dice.randrange(4)
        if how == 0:
            table.pop(key)
        elif how == 1 and isinstance(table, dict):
            table[str(dice.choice(HOSTILE))] = table.pop(key)
        elif how == 2 and isinstance(inner, int | float):
            table[key] = dice.choice((inner + 1, inner - 1, -inner, inner * 1000, str(inner)))
        else:
            table[key] = copy.deepcopy(dice.choice(HOSTILE))
        return


def _header_changed(raw: bytes, dice: random.Random) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    header = _json_changed(raw[8 : 8 + size], dice)
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def _length_changed(raw: bytes, dice: random.Random) -> bytes:
    length = dice.choice((0, 1, 7, len(raw), 2**27, 2**62, 2**64 - 1))
    return length.to_bytes(8, "little") + raw[8:]


def write_folders(folder: Path) -> list[Path]:
    """A small model of each kind with its tokenizer; the first one's tensors lie in two files."""
    from yantai.core.initialise import build
    from yantai.families.table import family_named
    from yantai.infer.language_model import LanguageModel
    from yantai.text.tokenizer import MASK, SPANS, Tokenizer
    from yantai.training.network import model_config
    from yantai.training.recipe import Pretrain

    corpus = write_corpus(folder / "documents.jsonl")
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    made = []
    for name, kind in KINDS.items():
        family = family_named(name)
        specials = {"bert": (MASK,), "t5": SPANS}.get(name, ())
        tokenizer = Tokenizer.train(texts, 400, kind, specials=specials)
        heads: dict[str, Any] = {"heads": 2} if family.in_transformers else {}
        recipe = Pretrain(out=folder, family=name, **SIZES, **heads)
        config = model_config(recipe, family, tokenizer.vocab_size)
        network = build(config, seed=1, table=family.initial)
        start = tokenizer.pad_id if config.shape == "encoder-decoder" else None
        ends = frozenset() if tokenizer.eos_id is None else frozenset({tokenizer.eos_id})
        LanguageModel(network, family, tokenizer, ends, start).save(folder / name)
        made.append(folder / name)
    _in_two_files(made[0])
    return made


def _in_two_files(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / part)
    table = {name: part for part, held in parts.items() for name in held}
    text = json.dumps({"metadata": {}, "weight_map": table})
    (folder / "model.safetensors.index.json").write_text(text)
    whole.unlink()


def _answer_of(folder: Path) -> str:
    """Open a folder and use it: `opened`, `refused`, or what else happened."""
    from yantai.base.errors import ModelFileError, UsageError
    from yantai.infer.opening import load

    try:
        model = load(folder, dtype="float32", device="cpu")
        ids = model.tokenizer.encode("a b 天 3") if model.has_tokenizer else [1]
        ids = ids[:4] or [1]
        model.logits(ids, ids if model.shape == "encoder-decoder" else None)
        if model.shape == "decoder" and model.has_tokenizer:
            model.generate("a b 天 3", max_new_tokens=2)
    except (ModelFileError, UsageError):
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "opened"


def _serve(folder: Path, first: int, count: int) -> None:
    """Open damaged folders number `first` and following ones."""
    whole = folder / "whole"
    if not whole.is_dir():
        (folder / "new").mkdir()
        write_folders(folder / "new")
        (folder / "new").rename(whole)
    names = sorted(path.name for path in whole.iterdir() if path.is_dir())
    for name in names:
        assert _answer_of(whole / name) == "opened", name
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, taken + BYTES))
    for number in itertools.islice(itertools.count(first), count):
        dice = random.Random(number)
        name = dice.choice(names)
        damaged = folder / "damaged" / name
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole / name, damaged)
        what = damage(damaged, dice)
        signal.alarm(SECONDS)
        outcome = _answer_of(damaged)
        signal.alarm(0)
        sys.stdout.write(json.dumps({"what": what, "outcome": outcome}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
