"""Fine-tuning a BERT to classify: ours against the loop that articles show, on the same rows.

Both update all weights with AdamW, about 32 rows a step, dropout 0.1. Their default is float32 and
padding to 128 tokens; their best is the faster type of this machine and padding to the longest of
the batch. Texts are tokens already: an article's loop would tokenise them again in each epoch. A
figure is rows a second.

    python -m bench finetuning
    python -m bench.finetuning --body RUN/model --seeds 3 --rate 5e-4
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.jobs import Rows, parts_of, sets, trec, write
from bench.measure import contest, figures_line, ratio_line
from bench.training import finish, is_narrow, our_step

SHAPES = {"4 x 256": (4, 256, 4, 512), "12 x 768": (12, 768, 12, 64)}
"""Layers, width, heads, and the rows that are read in a figure."""
BATCH, LONGEST, DROPOUT, VOCAB, LABELS = 32, 128, 0.1, 4096, 6


def questions(count: int | None = None) -> Rows:
    """Rows of TREC's training part."""
    rows = trec(Path(sets()) / "trec_qc")["train"]
    random.Random("rows").shuffle(rows)
    return rows[:count]


def tokenizer_of(rows: Rows) -> Any:
    """A WordPiece tokenizer of the rows' words."""
    from yantai.text.tokenizer import Tokenizer

    return Tokenizer.train((text for text, _ in rows), VOCAB, kind="wordpiece")


def their_config(shape: str, vocab: int) -> Any:
    """The configuration that both sides build."""
    import transformers

    layers, dim, heads, _ = SHAPES[shape]
    return transformers.BertConfig(
        vocab_size=vocab, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * dim, hidden_dropout_prob=DROPOUT, num_labels=LABELS,
        attention_probs_dropout_prob=DROPOUT,
    )  # fmt: skip


def examples_of(shape: str) -> tuple[Any, list[str], list[int]]:
    """A tokenizer, texts, and the numbers of their labels."""
    rows = questions()
    names = sorted({label for _, label in rows})
    chosen = rows[: SHAPES[shape][3]]
    texts = [text for text, _ in chosen]
    return tokenizer_of(rows), texts, [names.index(label) for _, label in chosen]


def ours(shape: str) -> Callable[[], None]:
    """A pass of the trainer over the rows."""
    from yantai.base.device import prepare_process
    from yantai.core.initialise import build
    from yantai.data.examples import batches_of
    from yantai.families.labels import judging
    from yantai.families.table import family_named
    from yantai.life.finetune import EXAMPLES_A_STEP
    from yantai.tasks.classify import Classify, classified
    from yantai.tasks.frame import Frame

    prepare_process(2)
    tokenizer, texts, labels = examples_of(shape)
    family = judging(family_named("bert"), "classify")
    table = json.loads(their_config(shape, tokenizer.vocab_size).to_json_string(use_diff=False))
    model = build(family.read_config(table, "config.json"), table="gpt2")
    frame, task = Frame(tokenizer, "encoder", 256), Classify()
    rows = frame.rows(classified(frame, texts, labels, texts))
    a_step = round(EXAMPLES_A_STEP * rows.rows_in_epoch(0) / len(texts))
    batches, state = batches_of(rows, max(1, a_step)), {}
    step = our_step(model, lambda: task.loss_sum(model, state["now"]) / state["now"].target_count)

    def through() -> None:
        for batch in batches:
            state["now"] = batch
            step()

    return through


def theirs(shape: str, best: bool) -> Callable[[], None]:
    """The same pass as articles write it."""
    import transformers

    torch.manual_seed(0)
    tokenizer, texts, labels = examples_of(shape)
    model = transformers.BertForSequenceClassification(their_config(shape, tokenizer.vocab_size))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    batches = padded(tokenizer, texts, labels, best)
    narrow = best and is_narrow()

    def through() -> None:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                loss = model(**batch).loss
            finish(loss, model, optimizer)

    return through


def padded(tokenizer: Any, texts: list[str], labels: list[int], best: bool) -> list[dict[str, Any]]:
    """Batches in the order of the rows, padded to their own longest, or all alike."""
    found = []
    for start in range(0, len(texts), BATCH):
        ids = [tokenizer.encode(text)[: LONGEST - 2] for text in texts[start : start + BATCH]]
        whole = [[tokenizer.bos_id, *each, tokenizer.eos_id] for each in ids]
        longest = max(map(len, whole)) if best else LONGEST
        rows = [[*each, *[tokenizer.pad_id or 0] * (longest - len(each))] for each in whole]
        seen = [[1] * len(each) + [0] * (longest - len(each)) for each in whole]
        found.append(
            {
                "input_ids": torch.tensor(rows),
                "attention_mask": torch.tensor(seen),
                "labels": torch.tensor(labels[start : start + BATCH]),
            }
        )
    return found


def main(rounds: int = 5) -> list[str]:
    """Figures and ratios of both shapes."""
    lines = []
    for shape, (*_, count) in SHAPES.items():
        makers = {
            f"{shape}: ours": (ours, (shape,)),
            f"{shape}: their default": (theirs, (shape, False)),
            f"{shape}: their best": (theirs, (shape, True)),
        }
        figures = contest(makers, count, rounds, repeats=1)
        lines += [figures_line(name, values, "rows/s") for name, values in figures.items()]
        (_, mine), default, best = figures.items()
        for (name, values), goal in ((default, 3.0), (best, 1.5)):
            lines.append(ratio_line(f"ours / {name}", mine, values, goal))
    return lines


def learn_theirs(
    body: Path, parts: dict[str, Rows], seed: int, epochs: int, rate: float, best: bool
) -> tuple[float, float]:
    """Their loop from the same folder: accuracy on the test rows, and seconds of training."""
    import transformers

    from yantai.text.tokenizer import Tokenizer

    torch.manual_seed(seed)
    names = sorted({label for _, label in parts["train"]})
    tokenizer = Tokenizer.load(body)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        body, num_labels=len(names), hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
    narrow = best and is_narrow()
    began = time.perf_counter()
    for epoch in range(epochs):
        rows = list(parts["train"])
        random.Random(f"{seed} {epoch}").shuffle(rows)
        texts, labels = [text for text, _ in rows], [names.index(label) for _, label in rows]
        for batch in padded(tokenizer, texts, labels, best):
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                loss = model(**batch).loss
            finish(loss, model, optimizer)
    seconds = time.perf_counter() - began
    model.eval()
    texts, labels = [text for text, _ in parts["test"]], [names.index(y) for _, y in parts["test"]]
    with torch.inference_mode():
        said = [model(**batch).logits.argmax(1) for batch in padded(tokenizer, texts, labels, True)]
    right = (torch.cat(said) == torch.tensor(labels)).double().mean()
    return float(right), seconds


def learn_ours(
    body: Path, parts: dict[str, Rows], seed: int, epochs: int, folder: Path
) -> tuple[float, float]:
    """Ours with its own settings: accuracy on the test rows, and seconds of training."""
    from yantai.life.finetune import finetune
    from yantai.training.recipe import Finetune

    folder.mkdir(parents=True)
    paths = {
        name: write(folder / f"{name}.csv", ("text", "label"), rows) for name, rows in parts.items()
    }
    settings = Finetune(
        model=str(body), task="classify", data=paths["train"], test=paths["test"],
        out=folder / "run", epochs=epochs, seed=seed, dropout=DROPOUT,
    )  # fmt: skip
    report = finetune(settings, lambda text: None)
    return report["metrics"]["accuracy"]["value"], report["training"]["seconds"]


def compare() -> None:
    """Whole trainings in turn, from the same body: time and accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--body", type=Path, required=True, help="a folder of a pretrained BERT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-5, help="of their AdamW")
    parser.add_argument("--tune", action="store_true", help="hold out training rows instead")
    parser.add_argument("--only", nargs="+", default=["ours", "default", "best"])
    parser.add_argument("--scratch", type=Path, default=Path("runs/finetuning"))
    options = parser.parse_args()
    from bench.jobs import SETS
    from yantai.base.device import prepare_process

    prepare_process(2)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        parts = parts_of(SETS["trec"][1], Path(sets()) / "trec_qc", seed, options.tune)
        for name in options.only:
            if name == "ours":
                folder = options.scratch / f"{os.getpid()}-{seed}"
                found = learn_ours(options.body, parts, seed, options.epochs, folder)
            else:
                given = (options.body, parts, seed, options.epochs, options.rate, name == "best")
                found = learn_theirs(*given)
            figures[name].append(found)
            accuracy, seconds = found
            print(f"RESULT {name} seed {seed} {accuracy:.4f}, {seconds:.1f} s", flush=True)
    for name, found in figures.items():
        accuracy, seconds = (statistics.mean(each) for each in zip(*found, strict=True))
        print(f"means {name}: accuracy {accuracy:.4f}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(compare())
