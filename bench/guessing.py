"""What reading guessed tokens gains: a trained model that talks, with guesses and without.

Knows: one model folder and questions as the village asks them; greedy, one request at a time. What
is said must be the same; what differs is how long it takes. Guesses come from the row's own ids
(prompt lookup), so that they pay where an answer repeats its question: passages are asked to be
told again, too.

    yantai quickstart --out quickstart
    python -m bench.guessing quickstart/model
"""

import argparse
import statistics
import time

from bench.measure import figures_line, ratio_line
from yantai.infer.engine import Engine
from yantai.infer.opening import load
from yantai.infer.request import Request
from yantai.infer.settings import Generation
from yantai.text.village import Village

ROUNDS, ASKED, NEW = 5, 24, 96


def questions(kind):
    """Messages of users."""
    stories = Village(seed=91).stories(ASKED, "en")
    if kind == "a passage again":
        return [f"Say this again, word by word: {story.text}" for story in stories]
    return [f"{story.text}\nWho is in this story?" for story in stories]


def said(model, asked, guesses):
    """Ids of all answers, and tokens a second."""
    engine = Engine(model.network, slots=1, prefix_bytes=0)
    began, rows, count = time.perf_counter(), [], 0
    for ids in asked:
        settings = Generation(max_new_tokens=NEW)
        request = Request(ids, settings, stop_ids=model.eos_ids, guesses=guesses)
        engine.submit_all([request])
        request.wait(600)
        rows.append(request.row.ids[len(ids) :])
        count += len(rows[-1])
    seconds = time.perf_counter() - began
    share = engine.guessed / max(1, count)
    engine.close()
    return rows, count / seconds, share


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder of a model that has learned to talk")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    model = load(options.model, dtype=options.dtype)
    for kind in ("a question about a passage", "a passage again"):
        asked = [
            model.chat_format.render([{"role": "user", "content": text}], reply=True).ids
            for text in questions(kind)
        ]
        figures = {"with guesses": [], "without": []}
        shares, equal = [], 0
        for _ in range(ROUNDS):
            with_them, rate, share = said(model, asked, True)
            without, other, _ = said(model, asked, False)
            figures["with guesses"].append(rate)
            figures["without"].append(other)
            shares.append(share)
            equal = sum(one == two for one, two in zip(with_them, without, strict=True))
        for name, row in figures.items():
            print(figures_line(f"{kind}: {name}", row, "tok/s"))
        print(ratio_line(f"{kind}: with / without", *figures.values(), None))
        print(f"{statistics.median(shares):.0%} of the tokens were guessed; "
              f"{equal} of {len(asked)} answers are the same")  # fmt: skip


if __name__ == "__main__":
    main()
