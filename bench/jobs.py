"""Fine-tuning on real data: public sets in the form that `yantai finetune` reads, several seeds.

Knows: where the sets lie below YANTAI_DATA and how they are split. A set that has a test part is
tested on it; others are split 4:1 by the seed. While something is chosen, `--tune` holds out a
fifth of the training rows and never looks at a test part.

    python -m bench.jobs sst2 --seeds 3
    python -m bench.jobs sst2 --tune --changes '{"rate": 1e-3}'
"""

import argparse
import csv
import gzip
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yantai.life.finetune import finetune, teach
from yantai.training.recipe import Finetune

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Set:
    """A public set.

    Attributes:
        read: its folder → rows of its parts; `test` is missing where it has none. None: it is one
            file, as it is, and `finetune` shares its rows out.
        task: what is learned.
        columns: names of the columns of the rows.
        settings: of `Finetune`, beside its defaults.
        phrases: whether its rows are sentences and parts of these.
    """

    read: Callable[[Path], dict[str, Rows]] | None
    task: str = "classify"
    columns: tuple[str, ...] = ("text", "label")
    settings: dict[str, Any] = field(default_factory=dict)
    phrases: bool = False


def sets() -> str:
    """The folder of the public sets."""
    return os.environ.get("YANTAI_DATA") or sys.exit("set YANTAI_DATA to the folder of the sets")


def lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Of a text file, packed or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding=encoding) as file:
        return [line.rstrip("\n") for line in file]


def sst2(folder: Path) -> dict[str, Rows]:
    """Film reviews, the training part with their phrases; the two that the test has are left out.

    Its dev part holds phrases of sentences that stand in the training part. So both are one here,
    and 700 sentences are held out whole, with all their phrases, to choose the best by.
    """
    parts = {}
    for name in ("train", "dev", "test"):
        rows = [line.rsplit("\t", 1) for line in lines(folder / f"{name}.tsv")[1:]]
        parts[name] = [(text.strip(), label) for text, label in rows if text.strip()]
    held = {text for text, _ in parts["test"]}
    known = [row for row in dict.fromkeys(parts["train"] + parts["dev"]) if row[0] not in held]
    train, valid = apart(known, 700, "valid")
    return {"train": train, "valid": valid, "test": parts["test"]}


def apart(rows: Rows, count: int, seed: object) -> tuple[Rows, Rows]:
    """Without so many sentences and their phrases, and these sentences.

    A sentence is what is part of no longer text.
    """
    seen: set[str] = set()
    whole: Rows = []
    for row in sorted(rows, key=lambda row: (-len(row[0].split()), row)):
        if row[0] not in seen:
            whole.append(row)
            seen |= phrases_of(row[0])
    random.Random(f"sentences {seed}").shuffle(whole)
    held = {phrase for row in whole[:count] for phrase in phrases_of(row[0])}
    return [row for row in rows if row[0] not in held], whole[:count]


def phrases_of(text: str) -> set[str]:
    """All runs of its words, itself among them."""
    words = text.split()
    ends = range(1, len(words) + 1)
    return {" ".join(words[start:end]) for end in ends for start in range(end)} | {text}


def trec(folder: Path) -> dict[str, Rows]:
    """Questions by what they ask for, the six coarse classes; the training part is latin-1."""

    def rows(name: str) -> Rows:
        found = []
        for line in lines(folder / name, "latin-1"):
            label, text = line.split(" ", 1)
            found.append((text.strip(), label.partition(":")[0]))
        return found

    return {"train": rows("train.txt"), "test": rows("test.txt")}


def hotels(folder: Path) -> dict[str, Rows]:
    """Chinese reviews of hotels, good or bad."""
    with (folder / "ChnSentiCorp_htl_all.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["review"].strip(), row["label"]) for row in csv.DictReader(file)]
    return {"train": [row for row in rows if row[0]]}


def spam(folder: Path) -> dict[str, Rows]:
    """Short messages, ham or spam."""
    rows = [line.split("\t", 1) for line in lines(folder / "sms.tsv") if "\t" in line]
    return {"train": [(text.strip(), label) for label, text in rows if text.strip()]}


def abstracts(folder: Path) -> dict[str, Rows]:
    """Titles of Chinese papers by their field."""
    parts = {}
    for name in ("train", "dev"):
        rows = (line.split("\t") for line in lines(folder / "cls_ctg" / f"{name}.tsv"))
        parts[name] = [(row[1], row[2]) for row in rows if len(row) == 3]
    return {"train": parts["train"], "test": parts["dev"]}


def multi30k(folder: Path) -> dict[str, Rows]:
    """Captions of pictures, English and German."""
    files = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
    return {
        part: list(
            zip(lines(folder / f"{name}.en.gz"), lines(folder / f"{name}.de.gz"), strict=True)
        )
        for part, name in files.items()
    }


def tatoeba(folder: Path) -> dict[str, Rows]:
    """English sentences and Chinese ones."""
    rows = [line.split("\t") for line in lines(folder / "dev" / "cmn.tsv")]
    return {"train": [(row[0], row[1]) for row in rows if len(row) > 1]}


def classical(folder: Path) -> dict[str, Rows]:
    """Classical Chinese and what it is today."""
    found: Rows = []
    for path in sorted((folder / "dev").glob("*.tsv")):
        rows = (line.split("\t") for line in lines(path))
        found += [(row[1], row[2]) for row in rows if len(row) == 3 and row[1] and row[2]]
    return {"train": found}


def scitldr(folder: Path) -> dict[str, Rows]:
    """Abstracts of papers and their one sentence."""

    def rows(name: str) -> Rows:
        tables = (json.loads(line) for line in lines(folder / f"{name}.jsonl"))
        return [(" ".join(table["source"]), table["target"][0]) for table in tables]

    return {"train": rows("train"), "test": rows("dev")}


def titles(folder: Path) -> dict[str, Rows]:
    """Abstracts of Chinese papers and their titles."""
    rows = [line.split("\t") for line in lines(folder / "ts" / "dev.tsv")]
    return {"train": [(row[1], row[2]) for row in rows if len(row) == 3]}


def talks(folder: Path) -> dict[str, Rows]:
    """Instructions and their answers, Chinese ones and the small English set.

    Without questions of more than 500 bytes: small models read 256 tokens.
    """
    found: Rows = []
    for path in (*sorted(folder.glob("*.json")), folder.parent / "sft_demo/alpaca_en_demo.json"):
        tables = json.loads(path.read_text(encoding="utf-8"))
        rows = [(each["instruction"], each.get("input") or "", each["output"]) for each in tables]
        found += [row for row in rows if row[0].strip() and row[2].strip()
                  and len("".join(row[:2]).encode()) <= 500]  # fmt: skip
    return {"train": list(dict.fromkeys(found))}


TEXTS: dict[str, Any] = {"columns": ("text", "target")}
CHINESE: dict[str, Any] = {"vocab_size": 8192}
KEEP_BACK = {"on_bad_row": "quarantine"}
SETS: dict[str, tuple[str, Set]] = {
    "sst2": ("sst2", Set(sst2, phrases=True)),
    "trec": ("trec_qc", Set(trec)),
    "hotels": ("chnsenticorp_htl", Set(hotels, settings=CHINESE)),
    "spam": ("sms_spam", Set(spam)),
    "abstracts": ("csl", Set(abstracts, settings=CHINESE)),
    "multi30k": ("multi30k_en_de", Set(multi30k, "translate", **TEXTS)),
    "tatoeba": ("tatoeba_en_zh", Set(tatoeba, "translate", **TEXTS)),
    "classical": ("classical_modern", Set(classical, "translate", settings=CHINESE, **TEXTS)),
    "scitldr": ("scitldr_a", Set(scitldr, "summarize", **TEXTS)),
    "titles": ("csl", Set(titles, "summarize", settings=CHINESE, **TEXTS)),
    "talks": ("alpaca_zh", Set(talks, "chat", ("instruction", "input", "output"))),
    "drcd": ("drcd/DRCD_dev.json", Set(None, "span", settings=CHINESE)),
    "cmrc": ("cmrc2018/cmrc2018_dev.json", Set(None, "span", settings=CHINESE | KEEP_BACK)),
    "squad": ("squad2_devhalf/dev-v2.0-half-minus-xquad.json", Set(None, "span")),
}


def parts_of(chosen: Set, folder: Path, seed: int, tune: bool) -> dict[str, Rows]:
    """The rows of each part; without a test part of its own a fifth of the texts becomes one.

    While something is chosen, a fifth of what is left without the test part stands for it.
    """
    assert chosen.read is not None
    parts = chosen.read(folder)
    if "test" not in parts:
        parts |= held_out(parts["train"], f"split {seed}")
    if not tune:
        return parts
    if chosen.phrases:
        parts["train"], parts["test"] = apart(parts["train"], 1_200, seed)
        return parts
    parts.pop("valid", None)
    return parts | held_out(parts["train"], f"tuning {seed}")


def held_out(rows: Rows, key: str) -> dict[str, Rows]:
    """Without a fifth of the texts, and these."""
    texts = list(dict.fromkeys(row[0] for row in rows))
    random.Random(key).shuffle(texts)
    held = set(texts[: len(texts) // 5])
    return {
        "train": [row for row in rows if row[0] not in held],
        "test": [row for row in rows if row[0] in held],
    }


def write(path: Path, columns: Iterable[str], rows: Rows) -> Path:
    """Rows as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([tuple(columns), *rows])
    return path


def paths_of(
    name: str, folder: Path, seed: int, tune: bool
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The task and the settings of a set, and the files of its parts."""
    place, chosen = SETS[name]
    source = Path(sets()) / place
    settings = {"task": chosen.task, **chosen.settings}
    if chosen.read is None:
        return settings, {"data": source}
    parts = parts_of(chosen, source, seed, tune)
    files = {
        part: write(folder / f"{part}.csv", chosen.columns, rows) for part, rows in parts.items()
    }
    return settings, {"data" if part == "train" else part: file for part, file in files.items()}


def learn(name: str, seed: int, folder: Path, given: dict[str, Any], tune: bool) -> dict[str, Any]:
    """One training and its score; while something is chosen, without the test part of a file."""
    folder.mkdir(parents=True)
    settings, paths = paths_of(name, folder, seed, tune)
    recipe = Finetune(**settings | paths | {"out": folder / "run", "seed": seed} | given)
    if tune and SETS[name][1].read is None:
        taught = teach(recipe, tested=False)
        shown = {"score of validation": round(taught.result["best_score"], 4)}
        print(f"RESULT {name} seed {seed} {shown} {taught.result['seconds']:.0f} s", flush=True)
        return shown
    report = finetune(recipe, lambda text: None)
    shown = {key: round(each["value"], 4) for key, each in report["metrics"].items()}
    floors = {
        floor: {key: round(each["value"], 4) for key, each in table.items()}
        for floor, table in report["floors"].items()
    }
    verdicts = {floor: each["verdict"] for floor, each in report["against"].items()}
    seconds = f"{report['training']['seconds']:.0f} s"
    print(f"RESULT {name} seed {seed} {shown} {floors} {verdicts} {seconds}", flush=True)
    return shown


def main() -> None:
    """Seed after seed, one line each, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="hold out training rows instead")
    parser.add_argument("--model", default="scratch")
    parser.add_argument("--changes", default="{}", help="JSON: changes to the settings")
    parser.add_argument("--scratch", type=Path, default=Path("runs/jobs"))
    options = parser.parse_args()
    given = {"model": options.model} | json.loads(options.changes)
    values: dict[str, list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        folder = options.scratch / f"{options.set}-{os.getpid()}-{seed}"
        for name, value in learn(options.set, seed, folder, given, options.tune).items():
            values.setdefault(name, []).append(value)
    means = {name: round(statistics.mean(each), 4) for name, each in values.items()}
    print(f"means over {options.seeds}: {means}", flush=True)


if __name__ == "__main__":
    main()
