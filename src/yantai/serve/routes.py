"""The routes: requests of clients → questions for a backend → answers in their shapes.

Knows: OpenAI's paths and what belongs to each. Who may ask is the gate's business.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from yantai.serve.about import About
from yantai.serve.backend import Backend
from yantai.serve.pages import page_routes
from yantai.serve.schema import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ResponseFormat,
    Sampling,
    TaskRequest,
    read_request,
)
from yantai.serve.shapes import Choice, Frame, event, vectors

JOBS = ("classify", "tag", "answer", "translate", "summarize")
LOOK_SECONDS = 0.2
"""How often it is seen whether a client that waits for a whole answer is still there."""
Used = Callable[[str, int], None]


class EventStream(StreamingResponse):
    """Events as they come; whatever ends it, nothing of it goes on.

    A generator that nobody asks any more ends when it is collected, which may be never; one that
    nobody has asked yet does not even begin to end.

    Args:
        events: what is sent.
        tables: what these are made of.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], tables: Any):
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._made = (events, tables)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for each in self._made:
                await each.aclose()


class Service:
    """The models of a server.

    Args:
        backends: by the names that clients know; the first one answers where none is named.
        used: is told how many tokens a key has used.
        curves: where the figures of a model's training are, by its name.
    """

    def __init__(
        self,
        backends: dict[str, Backend],
        used: Used = lambda key, tokens: None,
        curves: dict[str, Path] | None = None,
    ):
        assert backends, "a server without a model"
        self.backends, self.used, self.logs = backends, used, curves or {}
        self.is_draining = False
        self.started = int(time.time())
        self.answered: dict[tuple[str, int], int] = {}
        self.tokens = {"prompt": 0, "said": 0}

    def leave(self) -> None:
        """Every open answer ends here."""
        for backend in self.backends.values():
            backend.leave()

    def app(self) -> Starlette:
        """The routes, without a gate."""
        posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.complete,
            "/v1/embeddings": self.embed,
        } | {f"/v1/{job}": self.job for job in JOBS}
        gets = About(self, JOBS).handlers()
        routes = [
            Route(path, self._told(handler), methods=[method])
            for method, table in (("POST", posts), ("GET", gets))
            for path, handler in table.items()
        ] + page_routes()
        handlers: Any = {HTTPException: self._no_route, Exception: self._broken}
        return Starlette(routes=routes, exception_handlers=handlers)

    # ------------------------------------------------------------ what every route shares

    def _told(self, handler: Callable[[Request], Awaitable[Response]]) -> Any:
        """Errors in OpenAI's form, and a count of what was answered."""

        async def run(request: Request) -> Response:
            try:
                response = await handler(request)
            except ApiError as error:
                headers = {"retry-after": str(error.wait)} if error.wait is not None else None
                response = JSONResponse(error.body(), error.status, headers)
            key = (request.scope["path"], response.status_code)
            if len(self.answered) < 1000 or key in self.answered:
                self.answered[key] = self.answered.get(key, 0) + 1
            return response

        return run

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: "no such route", 405: "this route takes another method"}
        said = ApiError(error.status_code, known.get(error.status_code, "not possible"))
        return JSONResponse(said.body(), error.status_code, error.headers)

    async def _broken(self, request: Request, error: Exception) -> Response:
        said = ApiError(500, "internal error", kind="server_error")
        return JSONResponse(said.body(), 500)

    def _backend(self, name: str | None, ability: str) -> tuple[str, Backend]:
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
            what = "is shutting down" if self.is_draining else "makes no progress"
            raise ApiError(
                503, f"the server {what}", code="unavailable", kind="server_error", wait=5
            )
        return name, backend

    def _count(self, request: Request, prompt: int, said: int) -> None:
        self.tokens["prompt"] += prompt
        self.tokens["said"] += said
        state = request.scope.setdefault("state", {})
        state |= {"prompt_tokens": prompt, "tokens": said}
        self.used(state.get("key", ""), prompt + said)

    # ------------------------------------------------------------ texts

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked: ChatRequest = read_request(await request.body(), ChatRequest)
        name, backend = self._backend(asked.model, "chat")
        question = _question(asked, "chat") | {
            "messages": [each.plain() for each in asked.messages], "max_new_tokens": asked.limit,
            "logprobs": (asked.top_logprobs or 0) if asked.logprobs else None,
            "format": _format(asked.response_format),
        }  # fmt: skip
        frame = Frame(
            f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), name, True, bool(asked.logprobs)
        )
        return await self._write(request, backend, [question], frame, asked)

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        asked: CompletionRequest = read_request(await request.body(), CompletionRequest)
        name, backend = self._backend(asked.model, "complete")
        given: Any = asked.prompt
        single = isinstance(given, str) or isinstance(given[0], int)
        common = _question(asked, "complete") | {
            "max_new_tokens": asked.max_tokens or 16, "logprobs": asked.logprobs,
        }  # fmt: skip
        questions = [common | {"prompt": prompt} for prompt in ([given] if single else given)]
        frame = Frame(
            f"cmpl-{secrets.token_hex(12)}", int(time.time()), name, False,
            asked.logprobs is not None,
        )  # fmt: skip
        if asked.echo and not all(isinstance(each["prompt"], str) for each in questions):
            raise ApiError(400, "echo needs prompts as texts", param="echo")
        return await self._write(request, backend, questions, frame, asked)

    async def _write(
        self, request: Request, backend: Backend, questions: list[dict[str, Any]], frame: Frame,
        asked: Sampling,
    ) -> Response:  # fmt: skip
        """One or several prompts, each with its texts, whole or as they come."""
        if not asked.stream:
            return await self._whole(request, backend, questions, frame, asked)
        if len(questions) > 1:
            raise ApiError(400, "one prompt at a time is streamed", param="stream")
        tables = backend.ask(questions[0])
        first = await anext(tables)
        if "error" in first:
            await tables.aclose()
            raise _api_error(first["error"])
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        count = questions[0]["n"]
        lines = self._lines(request, tables, first["prompt_tokens"], frame, count, usage)
        return EventStream(lines, tables)

    async def _lines(
        self, request: Request, tables: Any, prompt: int, frame: Frame, count: int, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events of a stream."""
        said, reused = 0, 0
        lengths = [0] * count
        async with aclosing(tables):
            try:
                for index in range(count if frame.chat else 0):
                    yield event(frame.piece(index, "", None, None, first=True))
                async for table in tables:
                    if "error" in table:
                        yield event(_api_error(table["error"]).body())
                        break
                    index = table["index"]
                    rows = table.get("logprobs") if frame.logprobs else None
                    if table.get("text") or rows:
                        text = table.get("text", "")
                        start = lengths[index]
                        lengths[index] += len(text)
                        yield event(frame.piece(index, text, rows, None, start=start))
                    if "end" in table:
                        said, reused = said + table["tokens"], max(reused, table["reused"])
                        choice = Choice()
                        choice.take(table)
                        yield event(frame.piece(index, "", None, choice.reason))
                if usage:
                    yield event(frame.last(prompt, said, reused))
                yield event("[DONE]")
            finally:
                self._count(request, prompt, said)

    async def _whole(
        self, request: Request, backend: Backend, questions: list[dict[str, Any]], frame: Frame,
        asked: Sampling,
    ) -> Response:  # fmt: skip
        """All texts at once; nothing goes on when the client has gone."""

        async def collect(question: dict[str, Any]) -> tuple[list[Choice], int, int]:
            choices = [Choice() for _ in range(question["n"])]
            prompt = reused = 0
            async with aclosing(backend.ask(question)) as tables:
                async for table in tables:
                    if "error" in table:
                        raise _api_error(table["error"])
                    prompt = table.get("prompt_tokens", prompt)
                    reused = max(reused, table.get("reused", 0))
                    if "index" in table:
                        choices[table["index"]].take(table)
            return choices, prompt, reused

        tasks = [asyncio.create_task(collect(question)) for question in questions]
        try:
            left: set[asyncio.Task[Any]] = set(tasks)
            while left:
                done, left = await asyncio.wait(
                    left, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()  # an error of one is the answer to all
                if left and await request.is_disconnected():
                    return Response(status_code=499)
        finally:
            for task in tasks:
                task.cancel()
        found = [task.result() for task in tasks]
        choices = [choice for group, _, _ in found for choice in group]
        if getattr(asked, "echo", False):
            texts = [question["prompt"] for question in questions for _ in range(question["n"])]
            for choice, text in zip(choices, texts, strict=True):
                choice.text = text + choice.text
        prompt = sum(tokens for _, tokens, _ in found)
        self._count(request, prompt, sum(choice.tokens for choice in choices))
        return JSONResponse(frame.whole(choices, prompt, max(each[2] for each in found)))

    # ------------------------------------------------------------ jobs

    async def embed(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        asked: EmbeddingRequest = read_request(await request.body(), EmbeddingRequest)
        name, backend = self._backend(asked.model, "embed")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "texts are embedded, not ids", param="input")
        answers, tokens = await self._answers(backend, {"do": "embed", "input": texts})
        self._count(request, tokens, 0)
        return JSONResponse(vectors(answers, asked.encoding_format == "base64", name, tokens))

    async def job(self, request: Request) -> Response:
        """`POST /v1/classify` and the others."""
        asked: TaskRequest = read_request(await request.body(), TaskRequest)
        do = request.url.path.rpartition("/")[2]
        name, backend = self._backend(asked.model, "span" if do == "answer" else do)
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
        answers, tokens = await self._answers(backend, question)
        self._count(request, tokens, 0)
        data = [{"index": index, "result": each} for index, each in enumerate(answers)]
        return JSONResponse(
            {"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": tokens}}
        )

    async def _answers(self, backend: Backend, question: dict[str, Any]) -> tuple[list[Any], int]:
        async with aclosing(backend.ask(question)) as tables:
            async for table in tables:
                if "error" in table:
                    raise _api_error(table["error"])
                if "answers" in table:
                    return table["answers"], table["prompt_tokens"]
        raise ApiError(503, "the engine has stopped", kind="server_error", wait=5)


def _question(asked: Sampling, do: str) -> dict[str, Any]:
    """What a desk is asked, of what both kinds have."""
    given = {
        name: getattr(asked, name)
        for name in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
                     "frequency_penalty")
    }  # fmt: skip
    heat = 1.0 if asked.temperature is None else asked.temperature
    if heat == 0:  # then what only drawing has says nothing
        given |= {"top_p": None, "top_k": None, "min_p": None}
    seed = asked.seed if asked.seed is not None else secrets.randbits(31)
    bias = {int(id): value for id, value in (asked.logit_bias or {}).items()}
    return given | {
        "do": do, "whole": not asked.stream, "n": asked.n or 1, "temperature": heat,
        "seed": seed % 2**63,
        "stop": list(asked.stops), "bias": bias or None,
    }  # fmt: skip


def _format(asked: ResponseFormat | None) -> dict[str, Any] | None:
    """What a text has to be; None for anything."""
    if asked is None or asked.type == "text":
        return None
    text = asked.regex if asked.json_schema is None else asked.json_schema.schema_
    return {"kind": asked.type, "text": text}


def _api_error(error: dict[str, Any]) -> ApiError:
    status = error["status"]
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    return ApiError(
        status, error["message"], param=error.get("param"), code=error.get("code"),
        kind=kinds.get(status, "invalid_request_error"), wait=1 if status in (429, 503) else None,
    )  # fmt: skip
