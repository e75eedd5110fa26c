"""The routes: requests of clients → questions for a backend → answers in their shapes.

Knows: OpenAI's paths and what belongs to each. Who may ask is the gate's business.
"""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from yantai.serve.about import About
from yantai.serve.backend import Backend
from yantai.serve.meter import Meter, about
from yantai.serve.pages import page_routes
from yantai.serve.reading import asked_of
from yantai.serve.schema import ApiError, EmbeddingRequest, TaskRequest, api_error, unavailable
from yantai.serve.shapes import vectors
from yantai.serve.tally import Tally
from yantai.serve.texts import TextRoutes
from yantai.serve.together import together

WRITING = ("translate", "summarize")
JOBS = ("classify", "tag", "answer", *WRITING)


class Service:
    """The models of a server.

    Args:
        backends: by the names that clients know; the first one answers where none is named.
        meter: of the tokens that keys use.
        curves: where the figures of a model's training are, by its name.
    """

    def __init__(
        self,
        backends: dict[str, Backend],
        meter: Meter | None = None,
        curves: dict[str, Path] | None = None,
    ):
        assert backends, "a server without a model"
        self.backends, self.meter, self.logs = backends, meter or Meter(), curves or {}
        self.is_draining = False
        self.started = int(time.time())
        self.tally = Tally()
        self.tokens = {"prompt": 0, "said": 0}

    def leave(self) -> None:
        """Every open answer ends here."""
        for backend in self.backends.values():
            backend.leave()

    def app(self) -> Starlette:
        """The routes, without a gate."""
        texts = TextRoutes(self)
        posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/v1/chat/completions": texts.chat,
            "/v1/completions": texts.complete,
            "/v1/embeddings": self.embed,
        } | {f"/v1/{job}": self.job for job in JOBS}
        gets = About(self, JOBS).handlers()
        routes = [
            Route(path, self._told(path, handler), methods=[method])
            for method, table in (("POST", posts), ("GET", gets))
            for path, handler in table.items()
        ] + page_routes()
        handlers: Any = {HTTPException: self._no_route, Exception: self._broken}
        served = Starlette(routes=routes, exception_handlers=handlers)
        served.router.redirect_slashes = False
        return served

    # ------------------------------------------------------------ what every route shares

    def _told(self, path: str, handler: Callable[[Request], Awaitable[Response]]) -> Any:
        """Errors in OpenAI's form; whoever counts is told which route it was."""

        shown = re.sub(r":\w+}", "}", path)

        async def run(request: Request) -> Response:
            request.scope.setdefault("state", {})["route"] = shown
            try:
                return await handler(request)
            except ApiError as error:
                self._refund(request)
                headers = {"retry-after": str(error.wait)} if error.wait is not None else None
                return JSONResponse(error.body(), error.status, headers)
            except Exception:
                self._refund(request)
                raise

        return run

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: "no such route", 405: "this route takes another method"}
        said = ApiError(error.status_code, known.get(error.status_code, "not possible"))
        return JSONResponse(said.body(), error.status_code, error.headers)

    async def _broken(self, request: Request, error: Exception) -> Response:
        said = ApiError(500, "internal error", kind="server_error")
        return JSONResponse(said.body(), 500)

    def backend(self, name: str | None, ability: str) -> tuple[str, Backend]:
        """The model that is asked for.

        Raises:
            ApiError: 404 there is none of that name; 400 it cannot do this; 503 it does nothing.
        """
        name = name or next(iter(self.backends))
        backend = self.backends.get(name)
        if backend is None:
            there = ", ".join(self.backends)
            raise ApiError(
                404, f"no model {name!r}; there are: {there}", param="model", code="model_not_found"
            )
        can = backend.facts["can"]
        if ability not in can:
            raise ApiError(
                400, f"the model {name!r} does not {ability}; it can: {', '.join(can)}",
                param="model", code="unsupported_model",
            )  # fmt: skip
        if self.is_draining or not backend.is_ready:
            raise unavailable("is shutting down" if self.is_draining else "makes no progress")
        return name, backend

    def claim(self, request: Request, tokens: int) -> None:
        """Set aside tokens that may be said to a request, until they are counted.

        Raises:
            ApiError: 429, its key has used too many.
        """
        state = request.scope.setdefault("state", {})
        state["claimed"] = self.meter.claim(state.get("key", ""), tokens)

    def count(self, request: Request, prompt: int, said: int, *, whole: bool = True) -> None:
        """Tokens of a request; one that nobody waited for (not `whole`) has used its claim."""
        self.tokens["prompt"] += prompt
        self.tokens["said"] += said
        state = request.scope.setdefault("state", {})
        state |= {"prompt_tokens": prompt, "tokens": said}
        if whole:
            self.meter.used(state.get("key", ""), prompt + said)
            self._refund(request)

    def _refund(self, request: Request) -> None:
        """What was claimed was not said, or is counted by itself."""
        state = request.scope.get("state", {})
        self.meter.used(state.get("key", ""), -state.pop("claimed", 0))

    # ------------------------------------------------------------ jobs

    async def embed(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        asked: EmbeddingRequest = await asked_of(request, EmbeddingRequest)
        name, backend = self.backend(asked.model, "embed")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not all(isinstance(text, str) for text in texts):
            raise ApiError(
                400, "texts are embedded, not ids: those of another tokenizer would mean something "
                "else (langchain: check_embedding_ctx_length=False)", param="input",
            )  # fmt: skip
        found = await self._asked(request, backend, {"do": "embed", "input": texts})
        if found is None:
            return Response(status_code=499)
        answers, table = found
        tokens = table["prompt_tokens"]
        self.count(request, tokens, 0)
        return JSONResponse(vectors(answers, asked.encoding_format == "base64", name, tokens))

    async def job(self, request: Request) -> Response:
        """`POST /v1/classify` and the others."""
        asked: TaskRequest = await asked_of(request, TaskRequest)
        do = request.url.path.rpartition("/")[2]
        name, backend = self.backend(asked.model, "span" if do == "answer" else do)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        question: dict[str, Any] = {"do": do, "input": texts}
        if (asked.question is not None) != (do == "answer"):
            what = "is missing" if do == "answer" else "belongs to /v1/answer alone"
            raise ApiError(400, f"question: {what}", param="question")
        if asked.question is not None:
            asks = [asked.question] if isinstance(asked.question, str) else asked.question
            if len(asks) != len(texts):
                raise ApiError(400, "one question for each text", param="question")
            question["question"] = asks
        question |= {"truncate": bool(asked.truncate)}
        found = await self._asked(request, backend, question)
        if found is None:
            return Response(status_code=499)
        answers, table = found
        tokens, said = table["prompt_tokens"], table.get("tokens_said", 0)
        cut = set(table.get("cut", ()))
        self.count(request, tokens, said)
        data = [
            {"index": index, "result": each} | ({"truncated": True} if index in cut else {})
            for index, each in enumerate(answers)
        ]
        counts = {"prompt_tokens": tokens, "total_tokens": tokens + said}
        counts |= {"completion_tokens": said} if do in WRITING else {}
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": counts})

    async def _asked(
        self, request: Request, backend: Backend, question: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]] | None:
        """The same as `answers`, or None where the client has gone meanwhile."""
        writes = backend.facts.get("answer_length", 0) if question["do"] in WRITING else 0
        self.claim(request, sum(about(text) + writes for text in question["input"]))
        found = await together(request, [self.answers(backend, question)], 1)
        return None if found is None else found[0]

    async def answers(
        self, backend: Backend, question: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """What a backend answers all at once, and the table around it.

        Raises:
            ApiError: it does not.
        """
        async with aclosing(backend.ask(question)) as tables:
            async for table in tables:
                if "error" in table:
                    raise api_error(table["error"])
                if "answers" in table:
                    return table["answers"], table
        raise ApiError(503, "the engine has stopped", kind="server_error", wait=5)
