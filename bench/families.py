"""Transformer against recurrent networks: equal parameters, equal time, the same text and tokens.

Knows: `quality.py` for one run; here several families take turns, and their validation losses are
drawn over the time that they took. The recurrent ones get the rates that were found for them on
held-out training text.

    python -m bench.families --minutes 3 --tune --families lstm --settings '{"rate": 1e-3}'
    python -m bench.families --minutes 15 --plot docs/recurrent
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.quality import CORPORA, _data, run_ours
from yantai.base.device import prepare_process
from yantai.base.log import MetricsFile
from yantai.text.document import DocumentReader
from yantai.text.tokenizer import Tokenizer

TUNED: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gpt2": {},
    "lstm": {"layers": 2, "hidden": 464},
    "gru": {"layers": 2, "hidden": 536},
    "rnn": {"layers": 2, "hidden": 944},
}
"""What is changed in the recipe for each family, by runs with `--tune` (LOG.md): two wide networks
where the Transformer has four blocks, with as many parameters; Muon's rates stay."""


def curve(run: Path, family: str) -> list[dict[str, Any]]:
    """Validation losses over seconds."""
    return [
        {"family": family, "minutes": row["seconds"] / 60, "loss": row["valid_loss"]}
        for row in MetricsFile(run / "metrics.jsonl").rows()
        if "valid_loss" in row
    ]


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """The curves as SVG and PNG."""
    import altair

    base: Any = altair.Chart
    losses = [point["loss"] for point in points]
    scale = altair.Scale(zero=False, domain=[min(losses) * 0.97, min(6.0, max(losses))])
    chart = (
        base(altair.Data(values=points), title="Novels: validation loss over time, two CPU cores")
        .mark_line(clip=True, strokeWidth=2)
        .encode(
            x=altair.X("minutes:Q", title="minutes"),
            y=altair.Y("loss:Q", title="loss (nats a token)", scale=scale),
            color=altair.Color("family:N", title=None, sort=list(TUNED)),
        )
        .properties(width=640, height=320)
    )
    chart.save(str(path.with_suffix(".svg")))
    chart.save(str(path.with_suffix(".png")), scale_factor=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", default=list(TUNED), choices=list(TUNED))
    parser.add_argument("--settings", default="{}", help="JSON: changes to every family's recipe")
    parser.add_argument("--tune", action="store_true", help="hold out part of the training text")
    parser.add_argument("--plot", type=Path, help="PATH.svg and PATH.png")
    parser.add_argument("--scratch", type=Path, default=Path("runs/families"))
    options = parser.parse_args()
    prepare_process(2)
    options.scratch.mkdir(parents=True, exist_ok=True)
    corpus = CORPORA["novels"](_data(), options.scratch, options.tune)
    kept = options.scratch / f"tokenizer{'-tune' if options.tune else ''}"
    if not kept.is_dir():
        texts = (document.text for document in DocumentReader(list(corpus.train)))
        Tokenizer.train(texts, corpus.vocab_size).save(kept)
    points: list[dict[str, Any]] = []
    for number, family in enumerate(options.families):
        out = options.scratch / f"{family}-{number}-{options.minutes:g}"
        changes = {"family": family} | TUNED[family] | json.loads(options.settings)
        found = run_ours(corpus, out, kept, options.minutes, options.seed, changes)
        print(f"RESULT {family} {found} {changes}", flush=True)
        points += curve(out, family)
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
