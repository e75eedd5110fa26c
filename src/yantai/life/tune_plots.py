"""What a study looked like: its history, what decided, and how values and scores go together.

Knows: an Optuna study. One page that needs no network, and a picture of each plot.
"""

from pathlib import Path
from typing import Any


def plot_study(study: Any, importance: dict[str, float], folder: Path) -> list[Path]:
    """Draw history, importance and parallel coordinates; returns study.html and the pictures."""
    import altair

    done = [each for each in study.trials if each.state.name in ("COMPLETE", "PRUNED")]
    charts = {"history": _history(altair, done), "parallel": _parallel(altair, done)}
    if importance:
        charts["importance"] = _importance(altair, importance)
    paths = [folder / "study.html"]
    altair.vconcat(*charts.values()).resolve_scale(color="independent").save(
        str(paths[0]), inline=True
    )
    for name, chart in charts.items():
        paths.append(folder / f"study-{name}.svg")
        chart.save(str(paths[-1]))
    return paths


def _history(altair: Any, trials: list[Any]) -> Any:
    points: list[dict[str, Any]] = []
    best = None
    for each in trials:
        if each.value is None:
            continue
        complete = each.state.name == "COMPLETE"
        if complete:
            best = each.value if best is None else max(best, each.value)
        kind = "complete" if complete else "stopped early"
        points.append({"trial": each.number, "score": each.value, "kind": kind, "best": best})
    chart = altair.Chart(altair.Data(values=points), title="history")
    dots = chart.mark_circle(size=60).encode(
        x=altair.X("trial:Q", title="trial"),
        y=altair.Y("score:Q", title="validation score", scale=altair.Scale(zero=False)),
        color=altair.Color("kind:N", title=None),
    )
    line = chart.mark_line(interpolate="step-after").encode(x="trial:Q", y="best:Q")
    return (dots + line).properties(width=640, height=240)


def _importance(altair: Any, importance: dict[str, float]) -> Any:
    points = [{"field": name, "share": value} for name, value in importance.items()]
    return (
        altair.Chart(altair.Data(values=points), title="what decides the score (fANOVA)")
        .mark_bar()
        .encode(
            x=altair.X("share:Q", title="share of the variance", axis=altair.Axis(format="%")),
            y=altair.Y("field:N", title=None, sort="-x"),
        )
        .properties(width=640)
    )


def _parallel(altair: Any, trials: list[Any]) -> Any:
    """A line a trial, an axis a field, each axis from its lowest value to its highest."""
    done = [each for each in trials if each.value is not None]
    names = sorted({name for each in done for name in each.params})
    columns: dict[str, list[Any]] = {
        name: [each.params.get(name) for each in done] for name in names
    }
    columns["score"] = [each.value for each in done]
    points = []
    for name, values in columns.items():
        places = _places(values)
        for each, value, place in zip(done, values, places, strict=True):
            point = {"trial": each.number, "field": name, "place": place, "value": str(value)}
            points.append(point | {"score": each.value})
    return (
        altair.Chart(altair.Data(values=points), title="values and scores")
        .mark_line(opacity=0.6)
        .encode(
            x=altair.X("field:N", title=None, sort=[*names, "score"]),
            y=altair.Y("place:Q", title="lowest to highest", axis=altair.Axis(labels=False)),
            color=altair.Color("score:Q", scale=altair.Scale(scheme="viridis")),
            detail="trial:N",
            tooltip=["trial:N", "field:N", "value:N", "score:Q"],
        )
        .properties(width=640, height=280)
    )


def _places(values: list[Any]) -> list[float]:
    """0 for the lowest, 1 for the highest; names in the order of the alphabet."""
    known = sorted(set(values), key=lambda value: (isinstance(value, str), str(value)))
    if all(isinstance(value, int | float) for value in values):
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.5 for value in values]
    return [known.index(value) / max(1, len(known) - 1) for value in values]
