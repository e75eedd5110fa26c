"""Bodies for the jobs on public data: models that have read what lies below YANTAI_DATA.

Knows: which texts may be read. Of sets on which something is scored only the training parts are,
and of sets that a seed shares out nothing: their test rows change from seed to seed.

    python -m bench.bodies english --tokens 30e6 --out runs/bodies/english
    python -m bench.bodies chinese --family llama --minutes 20 --out runs/bodies/chinese-llama
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.jobs import abstracts, apart, lines, multi30k, scitldr, sets, sst2, trec
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

PAGE = 8000
"""Characters: books are cut at ends of lines into documents of about so many."""


def pages(text: str) -> Iterator[str]:
    """A long text, cut between its lines."""
    page = ""
    for line in text.splitlines(keepends=True):
        if page and len(page) + len(line) > PAGE:
            yield page.strip()
            page = ""
        page += line
    yield page.strip()


def books(folder: Path, pattern: str = "*.txt") -> Iterator[str]:
    """The pages of all text files of a folder."""
    for path in sorted(folder.glob(pattern)):
        yield from pages(path.read_text(encoding="utf-8"))


def told(path: Path, *fields: str) -> Iterator[str]:
    """Fields of JSON rows, one below the other."""
    if path.suffix == ".json":
        tables = json.loads(path.read_text(encoding="utf-8"))
    else:
        tables = [json.loads(line) for line in lines(path)]
    for table in tables:
        parts = [table[name].strip() for name in fields if table.get(name)]
        yield "\n".join(part for part in parts if part)


def english(data: Path) -> Iterator[str]:
    """Novels, encyclopedia, web pages, speeches, instructions, and texts of training parts."""
    yield from books(data / "eltec_eng" / "train")
    yield from books(data / "us_speeches" / "inaugural")
    yield from pages((data / "wikitext2" / "valid.txt").read_text(encoding="utf-8"))
    yield from told(data / "pretrain_demo_en" / "c4_demo.jsonl", "text")
    yield from pages((data / "pretrain_demo_en" / "wiki_demo.txt").read_text(encoding="utf-8"))
    yield from told(data / "sft_demo" / "alpaca_en_demo.json", "instruction", "input", "output")
    yield from told(data / "dolly_hhrlhf_small" / "train_small.jsonl", "response")
    yield from (text for text, _ in trec(data / "trec_qc")["train"])
    yield from (text for text, _ in multi30k(data / "multi30k_en_de")["train"])
    yield from (text for text, _ in scitldr(data / "scitldr_a")["train"])
    known = sst2(data / "sst2")["train"]
    yield from (text for text, _ in apart(known, len(known), "all")[1])


def chinese(data: Path) -> Iterator[str]:
    """Classic novels, manuals, instructions, old texts made new, and titles of a training part."""
    yield from books(data / "zh_classic_novels" / "dev")
    yield from told(data / "tidb_docs_zh" / "docs.jsonl", "text")
    for path in sorted((data / "alpaca_zh").glob("*.json")):
        yield from told(path, "instruction", "input", "output")
    for path in sorted((data / "classical_modern" / "dev").glob("*.tsv")):
        rows = [line.split("\t") for line in lines(path)]
        yield from pages("\n".join(row[2] for row in rows if len(row) == 3))
    yield from (text for text, _ in abstracts(data / "csl")["train"])


CORPORA = {"english": english, "chinese": chinese}


def write(name: str, path: Path) -> int:
    """The documents of a corpus as JSON lines; how many characters they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in CORPORA[name](Path(sets())):
            if text:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text)
    return size


def main() -> None:
    """Write the corpus, train the body."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--out", type=Path, required=True, help="the run; its model is OUT/model")
    parser.add_argument("--family", default="bert")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--tokens", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--changes", default="{}", help="JSON: changes to the settings")
    options = parser.parse_args()
    texts = options.out.with_name(f"{options.out.name}.jsonl")
    print(f"{options.corpus}: {write(options.corpus, texts):,} characters", flush=True)
    given: dict[str, Any] = {"vocab_size": 16384, **json.loads(options.changes)}
    if options.family == "bert":
        given = {"token_kind": "wordpiece", "whole_words": True} | given
    result = pretrain(
        Pretrain(
            data=(texts,), out=options.out, family=options.family, size=options.size,
            minutes=options.minutes, tokens=options.tokens, threads=options.threads, **given,
        )
    )  # fmt: skip
    facts = {key: result[key] for key in ("seconds", "steps", "tokens", "parameters", "best_loss")}
    print(f"RESULT {options.corpus} {options.family} {facts}", flush=True)


if __name__ == "__main__":
    main()
