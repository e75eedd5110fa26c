"""Nearest neighbours of sentences, to be read by eye: does a body know what belongs together?

python -m bench.neighbours run/model books/ --queries 10
"""

import argparse
import random
import re
from pathlib import Path

import yantai
from yantai.infer.language_model import LanguageModel
from yantai.text.document import DocumentReader

END = re.compile(r"(?<=[.!?。！？])[\s”」』]*")


def sentences_of(paths: list[Path], shortest: int, longest: int) -> list[str]:
    """The sentences of all documents that have a usual length, each once."""
    found: dict[str, None] = {}
    for document in DocumentReader(paths):
        for sentence in END.split(document.text):
            sentence = " ".join(sentence.split())
            if shortest <= len(sentence) <= longest:
                found[sentence] = None
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--pool", type=int, default=3000, help="sentences that are searched")
    parser.add_argument("--shown", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs=2, default=(40, 120), help="in characters")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sentences = sentences_of(options.documents, *options.lengths)
    chosen = random.Random(options.seed).sample(sentences, min(options.pool, len(sentences)))
    model = yantai.load(options.model, dtype="float32")
    show(model, chosen, options.queries, options.shown)


def show(model: LanguageModel, chosen: list[str], queries: int, shown: int) -> None:
    """The nearest of all sentences to each of the first ones."""
    vectors = yantai.embed(model, chosen)
    vectors = vectors - vectors.mean(0)  # what all sentences share says nothing about any
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    nearness = vectors[:queries] @ vectors.T
    for number, row in enumerate(nearness):
        print(f"\n{chosen[number]}")
        for place in row.argsort(descending=True)[1 : shown + 1].tolist():
            print(f"  {float(row[place]):.2f}  {chosen[place]}")


if __name__ == "__main__":
    main()
