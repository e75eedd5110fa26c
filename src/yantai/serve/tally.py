"""What a server has answered: counts and seconds by route, in the form that Prometheus reads.

Knows: tables of requests, and the text format of Prometheus. Paths that are no route are one,
`other`: strangers cannot fill the table.
"""

import bisect
from collections import Counter
from collections.abc import Iterator
from typing import Any

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: upper ends of the bins."""
OTHER = "other"


def label(value: str) -> str:
    """A value in the quotes of Prometheus, which knows three escapes and no other."""
    value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{value}"'


class Tally:
    """Counts of requests."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self._bins: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def take(self, table: dict[str, Any]) -> None:
        """A request has ended: `route`, `status`, `ms`."""
        route, seconds = table.get("route", OTHER), table["ms"] / 1000
        self.answers[route, table["status"]] += 1
        bins = self._bins.setdefault(route, [0] * (len(BOUNDS) + 1))
        bins[bisect.bisect_left(BOUNDS, seconds)] += 1
        self._seconds[route] += seconds

    def lines(self) -> Iterator[str]:
        """For `/metrics`."""
        yield "# TYPE yantai_requests_total counter"
        for (route, status), count in sorted(self.answers.items()):
            yield f'yantai_requests_total{{path={label(route)},status="{status}"}} {count}'
        yield "# TYPE yantai_request_seconds histogram"
        for route, bins in sorted(self._bins.items()):
            name, total = f"path={label(route)}", 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), bins, strict=True):
                total += count
                yield f'yantai_request_seconds_bucket{{{name},le="{bound}"}} {total}'
            yield f"yantai_request_seconds_sum{{{name}}} {self._seconds[route]:.3f}"
            yield f"yantai_request_seconds_count{{{name}}} {total}"
