"""Encoders and encoder–decoders from raw text: what they guess of what they have not read.

Knows: the corpora of `quality.py`, the default recipe of a family, and what people look at: the
nearest neighbours of sentences, and the words that a model puts into blanks.

    python -m bench.hidden novels --minutes 20
    python -m bench.hidden chinese-prose --minutes 20
    python -m bench.hidden novels --family t5 --minutes 20
"""

import argparse
import os
import random
from pathlib import Path
from typing import Any

import yantai
from bench.neighbours import sentences_of, show
from bench.quality import CORPORA, _data
from yantai.base.device import prepare_process
from yantai.evaluate.task_loss import task_loss
from yantai.infer.language_model import LanguageModel
from yantai.text.document import DocumentReader
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

LENGTHS = {"novels": (40, 120), "chinese-prose": (15, 40)}


def with_blank(sentence: str, spaced: bool, width: int, dice: random.Random) -> tuple[str, str]:
    """A sentence with a blank, and the words or characters that stood there."""
    parts = sentence.split(" ") if spaced else list(sentence)
    place = dice.randrange(1, max(2, len(parts) - width))
    between = " " if spaced else ""
    left, gone, right = parts[:place], parts[place : place + width], parts[place + width :]
    return between.join([*left, "___", *right]), between.join(gone)


def blanks(model: LanguageModel, sentences: list[str], spaced: bool, seed: int) -> None:
    """Sentences with a blank, and what the model puts there."""
    dice = random.Random(seed)
    width = 1 if model.shape == "encoder" else 2 if spaced else 3
    for sentence in sentences:
        asked, gone = with_blank(sentence, spaced, width, dice)
        print(f"\n{asked}\n  was: {gone}\n  now: {yantai.fill(model, asked)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", choices=list(LENGTHS))
    parser.add_argument("--family", default="bert")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path("runs/hidden"))
    options = parser.parse_args()
    prepare_process(2)
    options.scratch.mkdir(parents=True, exist_ok=True)
    corpus = CORPORA[options.corpus](_data(), options.scratch, False)
    out = options.scratch / f"{options.corpus}-{options.family}-{os.getpid()}"
    settings: dict[str, Any] = {"whole_words": True} if options.family == "bert" else {}
    result = pretrain(
        Pretrain(
            data=corpus.train, out=out, family=options.family, size=options.size,
            vocab_size=corpus.vocab_size, minutes=options.minutes, seed=options.seed, **settings,
        )
    )  # fmt: skip
    model = yantai.load(out / "model", dtype="float32")
    report = task_loss(model, DocumentReader(list(corpus.valid))).report(options.seed)
    facts = {key: result[key] for key in ("seconds", "steps", "tokens", "parameters")}
    print(f"RESULT {options.corpus} {options.family} {report} {facts}", flush=True)
    sentences = sentences_of(list(corpus.valid), *LENGTHS[options.corpus])
    random.Random(options.seed).shuffle(sentences)
    if model.shape == "encoder":
        show(model, sentences[:3000], queries=10, shown=3)
    blanks(model, sentences[:10], options.corpus == "novels", options.seed)


if __name__ == "__main__":
    main()
