"""What was found out about a model, for a person and for programs.

Knows: reports as tables. The metrics are those of `evaluate`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from yantai.base.files import write_atomic, write_json
from yantai.base.log import counted
from yantai.evaluate.compare import interval_text
from yantai.evaluate.page import report_page


def table_of(report: dict[str, Any]) -> str:
    """Scores for a person."""
    lines = [f"test: {counted(report['n'], 'row')}"]
    width = max(len(name) for name in ("the model", *report["floors"]))
    for name, values in (("the model", report["metrics"]), *report["floors"].items()):
        shown = " · ".join(
            f"{metric} {each['value']:.4f} ({interval_text(each)})"
            for metric, each in values.items()
        )
        lines.append(f"  {name:{width}}  {shown}")
    chance = {metric: each.get("chance") for metric, each in report["metrics"].items()}
    shown = " · ".join(f"{name} {each:.4f}" for name, each in chance.items() if each is not None)
    lines += [f"  {'chance':{width}}  {shown}"] if shown else []
    for name, difference in report["against"].items():
        lines.append(
            f"  against {name}: {difference['value']:+.4f} "
            f"({interval_text(difference, '+.4f')}): {difference['verdict']}"
        )
    return "\n".join(lines) + "\n"


def write_report(
    folder: Path,
    report: dict[str, Any],
    worst: list[dict[str, str]],
    title: str,
    emit: Callable[[str], None],
    name: str = "report.json",
) -> None:
    """The numbers and the worst rows as JSON, and report.html to look at.

    Args:
        folder: for both.
        report: of a job.
        worst: its rows of which the model was most wrong.
        title: of the page.
        emit: is told where it lies.
        name: of the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, report | {"worst": worst})
    write_atomic(folder / "report.html", report_page(report, worst, title))
    emit(f"{folder / 'report.html'}\n")
