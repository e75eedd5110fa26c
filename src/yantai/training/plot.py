"""The loss curve as SVG, PNG and a page of its own.

Knows: rows of metrics.jsonl. Knows nothing of training.
"""

from pathlib import Path
from typing import Any


def plot_loss(rows: list[dict[str, Any]], folder: Path, title: str) -> list[Path]:
    """Draw training and validation loss over steps; returns loss.svg, loss.png, loss.html.

    Long runs are thinned to about 1,000 points, each the mean of its neighbours.
    """
    import altair

    learned = [row for row in rows if "loss" in row]
    stride = max(1, len(learned) // 1000)
    points: list[dict[str, Any]] = []
    for start in range(0, len(learned), stride):
        group = learned[start : start + stride]
        mean = sum(row["loss"] for row in group) / len(group)
        points.append({"step": group[-1]["step"], "loss": mean, "part": "training"})
    points += [
        {"step": row["step"], "loss": row["valid_loss"], "part": "validation"}
        for row in rows
        if "valid_loss" in row
    ]
    losses = sorted(point["loss"] for point in points)
    top = losses[min(len(losses) - 1, int(len(losses) * 0.99))] if losses else 1.0
    base: Any = altair.Chart
    chart = (
        base(altair.Data(values=points), title=title)
        .mark_line(clip=True)
        .encode(
            x=altair.X("step:Q", title="step"),
            y=altair.Y(
                "loss:Q",
                title="loss (nats a token)",
                scale=altair.Scale(domain=[losses[0] * 0.97 if losses else 0, top], zero=False),
            ),
            color=altair.Color("part:N", title=None),
            strokeWidth=altair.condition(
                "datum.part == 'validation'", altair.value(2.5), altair.value(1)
            ),
        )
        .properties(width=640, height=320)
    )
    paths = [folder / f"loss.{kind}" for kind in ("svg", "png", "html")]
    for path in paths:
        if path.suffix == ".html":
            chart.save(str(path), inline=True)
        else:
            chart.save(str(path), scale_factor=2 if path.suffix == ".png" else 1)
    return paths
