"""The page: a few files of the package, each with its kind, and what a browser may do with them.

Knows: files. Nothing is loaded from elsewhere, and nothing that a model says is ever run.
"""

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """`/` and the files that it names."""
    folder = resources.files("yantai.serve") / "page"
    names = sorted(each.name for each in folder.iterdir() if each.name.rpartition(".")[2] in KINDS)
    routes = [Route("/", _file((folder / "index.html").read_bytes(), "html"), methods=["GET"])]
    for name in names:
        kind = name.rpartition(".")[2]
        handler = _file((folder / name).read_bytes(), kind)
        routes.append(Route(f"/page/{name}", handler, methods=["GET"]))
    return routes


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        return Response(content, headers={**HEADERS, "content-type": KINDS[kind]})

    return show
