"""Kinds of vocabulary on English and on Chinese: how well each fits text that it has not seen.

Knows: four kinds, two languages, the sizes that are asked for. Bytes a token on held-out documents,
the share of tokens that are unknown, and how fast a text is cut.

    python -m bench.vocabularies --sizes 4096 16384
"""

import argparse
import time
from pathlib import Path

from bench.quality import CORPORA, _data
from yantai.text.document import DocumentReader
from yantai.text.tokenizer import Tokenizer
from yantai.text.vocabulary import UNKNOWN

KINDS = ("bpe", "unigram", "wordpiece", "characters")
TEXTS = ("novels", "chinese")


def texts_of(paths: tuple[Path, ...]) -> list[str]:
    """All documents, long ones in pieces, so that every kind may use both cores."""
    found = []
    for document in DocumentReader(list(paths)):
        text = document.text
        found += [text[start : start + 20_000] for start in range(0, len(text), 20_000)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--corpora", nargs="+", choices=TEXTS, default=TEXTS)
    parser.add_argument("--scratch", type=Path, default=Path("runs/vocabularies"))
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    columns = ["text", "kind", "entries", "bytes a token", "characters a token", "unknown", "MB/s"]
    print(f"| {' | '.join([*columns, 'learned in'])} |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.corpora:
        corpus = CORPORA[name](_data(), options.scratch, False)
        train, held = texts_of(corpus.train), texts_of(corpus.valid)
        size = sum(len(text.encode()) for text in held)
        for kind in options.kinds:
            for entries in options.sizes:
                began = time.perf_counter()
                try:
                    tokenizer = Tokenizer.train(train, entries, kind)
                except ValueError as error:
                    print(f"| {name} | {kind} | {entries} | {error} |", flush=True)
                    continue
                learned = time.perf_counter() - began
                began = time.perf_counter()
                ids = tokenizer.encode_batch(held)
                seconds = time.perf_counter() - began
                count = sum(len(row) for row in ids)
                unknown = tokenizer.control.get(UNKNOWN)
                missing = sum(row.count(unknown) for row in ids) if unknown is not None else 0
                print(
                    f"| {name} | {kind} | {tokenizer.vocab_size:,} | {size / count:.2f} "
                    f"| {sum(map(len, held)) / count:.2f} | {missing / count:.2%} "
                    f"| {size / 1e6 / seconds:.1f} | {learned:.0f} s |",
                    flush=True,
                )
                if kind == "characters":
                    break


if __name__ == "__main__":
    main()
