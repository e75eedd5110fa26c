"""Labels for texts from a CSV with the columns text and label; rows behind 8,000 are the test.

python examples/articles/classify.py MODEL data.csv OUT     (MODEL may be the word scratch)
"""

import csv
import sys
from pathlib import Path
from typing import Any

from yantai.life.finetune import finetune
from yantai.training.recipe import Finetune


def main(model: str, path: str, out: str, train_rows: int = 8000, **changes: Any) -> dict[str, Any]:
    """Train for 10 epochs with AdamW at 5e-5 on batches of 32 rows of 128; score the test rows."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if len(rows) <= train_rows:
        sys.exit(
            f"{path}: {len(rows):,} rows, of which none is behind row {train_rows:,} to test on"
        )
    folder = Path(out + "-rows")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:train_rows]), ("test", rows[train_rows:])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *part])
    settings = {
        "context": 128, "batch": 32, "optimizer": "adamw", "rate": 5e-5, "schedule": "constant",
        "epochs": 10,
    }  # fmt: skip
    recipe = Finetune(
        model=model, task="classify", data=folder / "train.csv", test=folder / "test.csv",
        out=Path(out), **settings | changes,
    )  # fmt: skip
    return finetune(recipe, print)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
