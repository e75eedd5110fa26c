"""Routes about the server itself: models, their curves, signs of life, figures.

Knows: what a service has counted.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from yantai.base.log import MetricsFile
from yantai.serve.openapi import document
from yantai.serve.schema import ApiError
from yantai.serve.tally import label

MOST_ROWS = 2000
"""Of a curve; validations are never left out."""
COLUMNS = ("step", "loss", "valid_loss", "tokens", "seconds")


class About:
    """Answers about a service.

    Args:
        service: of `routes.py`, which has this among its routes.
        jobs: names of routes that take texts.
    """

    def __init__(self, service: Any, jobs: Sequence[str] = ()):
        self.service, self.jobs = service, jobs

    def handlers(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """By their paths; all of them are read."""
        return {
            "/v1/models": self.models,
            "/v1/models/{name}/curves": self.curves,
            "/v1/models/{name:path}": self.model,
            "/healthz": self.alive,
            "/readyz": self.ready,
            "/metrics": self.metrics,
            "/openapi.json": self.description,
        }

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        cards = [self._card(name) for name in self.service.backends]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        return JSONResponse(self._card(self._name(request)))

    async def curves(self, request: Request) -> Response:
        """`GET /v1/models/NAME/curves`: losses of the run that it came from."""
        log = self.service.logs.get(self._name(request))
        rows = MetricsFile(log).rows() if log is not None and log.is_file() else []
        kept = [{key: row[key] for key in COLUMNS if key in row} for row in rows]
        every = max(1, -(-len(kept) // MOST_ROWS))
        data = [row for place, row in enumerate(kept) if place % every == 0 or "valid_loss" in row]
        return JSONResponse({"object": "list", "data": data})

    def _name(self, request: Request) -> str:
        name = request.path_params["name"]
        if name not in self.service.backends:
            raise ApiError(404, f"no model {name!r}", param="model", code="model_not_found")
        return name

    def _card(self, name: str) -> dict[str, Any]:
        own = {"id": name, "object": "model", "created": self.service.started}
        return own | {"owned_by": "yantai"} | self.service.backends[name].facts

    async def alive(self, request: Request) -> Response:
        """`GET /healthz`: the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: every engine makes progress, and nobody shuts down."""
        backends = self.service.backends.items()
        stuck = [name for name, backend in backends if not backend.is_ready]
        if stuck or self.service.is_draining:
            draining = self.service.is_draining
            what = "shutting down" if draining else f"no progress: {', '.join(stuck)}"
            raise ApiError(503, what, code="unavailable", kind="server_error", wait=5)
        return JSONResponse({"status": "ready"})

    async def description(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        return JSONResponse(document(self.jobs, self.handlers()))

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, as Prometheus reads it."""
        lines = list(self.service.tally.lines())
        lines.append("# TYPE yantai_tokens_total counter")
        for kind, count in self.service.tokens.items():
            lines.append(f'yantai_tokens_total{{kind="{kind}"}} {count}')
        for figure in ("waiting", "active", "calls", "steps", "cache_bytes", "prefix_bytes"):
            lines.append(f"# TYPE yantai_engine_{figure} gauge")
            for name, backend in self.service.backends.items():
                value = backend.figures.get(figure, 0)
                lines.append(f"yantai_engine_{figure}{{model={label(name)}}} {value}")
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
