"""A report as a page of its own: values with their intervals, a confusion matrix, the worst rows.

Knows: a report as a table. The page needs no network, and no text of a row is read as markup.
"""

import html
from collections.abc import Sequence
from typing import Any

from yantai.base.log import counted

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
td.cell { background: rgb(60 120 216 / var(--share)); }
.bar { position: relative; width: 16rem; height: .9rem; background: #8883; }
.bar i { position: absolute; height: 100%; background: #3c78d888; }
.bar b { position: absolute; width: 2px; height: 100%; background: currentColor; }
blockquote { margin: .5rem 0; padding-left: 1rem; border-left: 3px solid #8886; }
"""


def report_page(report: dict[str, Any], worst: Sequence[dict[str, str]], title: str) -> str:
    """The page.

    Args:
        report: of a job (`evaluate/judged.py` and its neighbours).
        worst: rows that the model was most wrong about, as tables of texts.
        title: what was measured.
    """
    name = html.escape(title)
    count = counted(report["n"], report.get("unit", "row"))
    parts = [
        f"<!doctype html><html><head><meta charset='utf-8'><title>{name}</title>",
        "<meta name='viewport' content='width=device-width'>",
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>",
        f"<p>{count}; every value with its 95 % interval.</p>",
        *_values(report),
        *_signature(report),
        *_verdicts(report),
        *_forgotten(report),
        *_confusion(report),
        *_kinds(report),
        *_calibration(report),
        *_worst(worst),
        "</body></html>\n",
    ]
    return "".join(parts)


def _values(report: dict[str, Any]) -> list[str]:
    whole = {"the model": report["metrics"], **report["floors"]}
    found = []
    for metric in report["metrics"]:
        rows = {name: values[metric] for name, values in whole.items() if metric in values}
        top = max([1.0, *(each["high"] or 0.0 for each in rows.values())])
        found.append(f"<h2>{html.escape(metric)}</h2><table>")
        for name, each in rows.items():
            interval = _interval(each, ".4f")
            found.append(
                f"<tr><td>{html.escape(name)}</td><td>{each['value']:.4f}</td><td>{interval}</td>"
                f"<td>{_bar(each, top)}</td></tr>"
            )
        chance = next(iter(rows.values())).get("chance")
        found.append("</table>")
        if chance is not None:
            found.append(f"<p>Chance: {chance:.4f}</p>")
    return found


def _interval(each: dict[str, Any], form: str) -> str:
    return "" if each["low"] is None else f"{each['low']:{form}} – {each['high']:{form}}"


def _bar(each: dict[str, Any], top: float) -> str:
    def percent(value: float) -> float:
        return 100 * max(0.0, min(1.0, value / top))

    ends = [each["value"] if each[end] is None else each[end] for end in ("low", "high")]
    low, high = map(percent, ends)
    return (
        f"<div class='bar'><i style='left:{low:.1f}%;width:{max(0.3, high - low):.1f}%'></i>"
        f"<b style='left:{percent(each['value']):.1f}%'></b></div>"
    )


def _verdicts(report: dict[str, Any]) -> list[str]:
    if not report["against"]:
        return []
    found = ["<h2>paired tests</h2><table>"]
    for name, each in report["against"].items():
        found.append(
            f"<tr><td>against {html.escape(name)}</td><td>{each['value']:+.4f}</td>"
            f"<td>{_interval(each, '+.4f')}</td>"
            f"<td>{html.escape(each['verdict'])}</td></tr>"
        )
    return [*found, "</table>"]


def _signature(report: dict[str, Any]) -> list[str]:
    """By which a BLEU can be compared with those of others."""
    signature = report.get("signature")
    return [f"<p><small>{html.escape(signature)}</small></p>"] if signature else []


def _forgotten(report: dict[str, Any]) -> list[str]:
    """What the model makes of its old texts, before and after."""
    each = report.get("forgotten")
    if not each:
        return []
    pages = counted(each["pages"], "page")
    found = [f"<h2>its old texts</h2><p>{pages}; {html.escape(each['measure'])}</p><table>"]
    for name, form in (("before", ".4f"), ("after", ".4f"), ("difference", "+.4f")):
        value = each[name]
        told = html.escape(value.get("verdict", ""))
        found.append(
            f"<tr><td>{name}</td><td>{value['value']:{form}}</td>"
            f"<td>{_interval(value, form)}</td><td>{told}</td></tr>"
        )
    return [*found, "</table>"]


def _confusion(report: dict[str, Any]) -> list[str]:
    matrix, labels = report.get("confusion"), report.get("labels", [])
    if not matrix or len(labels) > 40:
        return []
    names = [html.escape(label) for label in labels]
    found = ["<h2>confusion</h2><table><tr><th>true \\ said</th>"]
    found += [f"<th>{name}</th>" for name in names]
    for name, row in zip(names, matrix, strict=True):
        total = max(1, sum(row))
        cells = "".join(
            f"<td class='cell' style='--share:{number / total:.2f}'>{number:,}</td>"
            for number in row
        )
        found.append(f"</tr><tr><td>{name}</td>{cells}")
    return [*found, "</tr></table>"]


def _kinds(report: dict[str, Any]) -> list[str]:
    """What is told of each kind of span, or of each label where several may hold."""
    kinds = report.get("kinds") or {}
    if not kinds:
        return []
    columns = list(next(iter(kinds.values())))
    found = ["<h2>each by itself</h2><table><tr><th></th>"]
    found += [f"<th>{html.escape(name)}</th>" for name in columns]
    for name, row in kinds.items():
        cells = (
            f"<td>{row[key]:.4f}</td>" if isinstance(row[key], float) else f"<td>{row[key]:,}</td>"
            for key in columns
        )
        found.append(f"</tr><tr><td>{html.escape(name)}</td>{''.join(cells)}")
    return [*found, "</tr></table>"]


def _calibration(report: dict[str, Any]) -> list[str]:
    """How often the model is right when it is so sure: on the diagonal it knows how sure to be."""
    each = report.get("calibration")
    if not each:
        return []
    most = max(one["count"] for one in each["bins"])
    points = "".join(
        f"<circle cx='{200 * one['confidence']:.1f}' cy='{200 - 200 * one['accuracy']:.1f}' "
        f"r='{2 + 6 * (one['count'] / most) ** 0.5:.1f}'><title>sure {one['confidence']:.0%}, "
        f"right {one['accuracy']:.0%}, {one['count']:,} times</title></circle>"
        for one in each["bins"]
    )
    return [
        "<h2>calibration</h2>",
        f"<p>Calibration error: {each['value']:.4f} ({_interval(each, '.4f')})</p>",
        "<svg viewBox='-30 -10 250 245' width='320' role='img' aria-label='how sure, how right'>",
        "<path d='M0 0V200H200M0 200L200 0' fill='none' stroke='currentColor' opacity='.4'/>",
        f"<g fill='#3c78d8'>{points}</g><g fill='currentColor' font-size='10'>",
        "<text x='70' y='218'>how sure it is</text>",
        "<text transform='rotate(-90)' x='-140' y='-14'>how often right</text>",
        "<text x='0' y='212'>0</text><text x='192' y='212'>1</text></g></svg>",
    ]


def _worst(worst: Sequence[dict[str, str]]) -> list[str]:
    if not worst:
        return []
    found = ["<h2>where it was most wrong</h2>"]
    for row in worst:
        facts = " · ".join(
            f"{html.escape(key)}: {html.escape(value)}"
            for key, value in row.items()
            if key != "text"
        )
        found.append(f"<blockquote>{html.escape(row.get('text', ''))}<br><small>{facts}</small>")
        found.append("</blockquote>")
    return found
