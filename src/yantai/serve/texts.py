"""Routes that write: chats and completions, whole or as they come.

Knows: OpenAI's shapes of both, and how several prompts become one answer.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from yantai.serve.backend import MOST_UNREAD, UNREAD, Backend
from yantai.serve.meter import about
from yantai.serve.reading import asked_of
from yantai.serve.schema import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    ResponseFormat,
    Sampling,
    api_error,
)
from yantai.serve.shapes import Choice, Frame, event
from yantai.serve.together import together

SLOTS = 16
"""Of a backend that does not say how many it continues at once."""
USUAL_ANSWER = 256
"""Tokens that are set aside for an answer in a chat whose client does not say how many."""
USUAL_TOKENS = 16
"""Of a completion whose client does not say how many; OpenAI's number."""


@dataclass(frozen=True)
class Order:
    """What a client wants written.

    Attributes:
        backend: that is asked.
        questions: one for each prompt, each for `count` texts.
        echoes: one for each prompt that is given back before its text; else none.
        frame: of the answer.
        count: texts for each prompt.
    """

    backend: Backend
    questions: list[dict[str, Any]]
    echoes: list[dict[str, Any]]
    frame: Frame
    count: int

    @property
    def side_by_side(self) -> int:
        """Prompts that are asked at once, so that one client is no flood."""
        return max(1, int(self.backend.facts.get("slots", SLOTS)) // self.count)


class EventStream(StreamingResponse):
    """Events as they come; whatever ends it, nothing of it goes on.

    A generator that nobody asks any more ends when it is collected, which may be never; one that
    nobody has asked yet does not even begin to end.

    Args:
        events: what is sent.
        sources: what these are made of.
        ended: is called when it is over, whether or not it had begun.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        sources: list[Any],
        ended: Callable[[], None] = lambda: None,
    ):
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._made, self._ended = (events, *sources), ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
            for each in self._made:
                await each.aclose()


class TextRoutes:
    """The routes.

    Args:
        service: of `routes.py`, which has these among its routes.
    """

    def __init__(self, service: Any):
        self.service = service

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked: ChatRequest = await asked_of(request, ChatRequest)
        name, backend = self.service.backend(asked.model, "chat")
        question = _question(asked, "chat") | {
            "messages": [each.plain() for each in asked.messages], "max_new_tokens": asked.limit,
            "logprobs": (asked.top_logprobs or 0) if asked.logprobs else None,
        }  # fmt: skip
        frame = _frame("chatcmpl", name, chat=True, logprobs=bool(asked.logprobs))
        order = Order(backend, [question], [], frame, asked.n or 1)
        return await self._write(request, order, asked)

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        asked: CompletionRequest = await asked_of(request, CompletionRequest)
        name, backend = self.service.backend(asked.model, "complete")
        given: Any = asked.prompt
        single = isinstance(given, str) or isinstance(given[0], int)
        common = _question(asked, "complete") | {
            "max_new_tokens": asked.max_tokens, "if_not_said": USUAL_TOKENS,
            "logprobs": asked.logprobs,
        }  # fmt: skip
        questions = [common | {"prompt": prompt} for prompt in ([given] if single else given)]
        silent = asked.max_tokens == 0  # then a prompt is only read
        echoed = asked.echo or silent
        echoes = [each | {"do": "echo", "n": 1} for each in questions] if echoed else []
        frame = _frame("cmpl", name, chat=False, logprobs=asked.logprobs is not None)
        order = Order(backend, [] if silent else questions, echoes, frame, asked.n or 1)
        if asked.stream and len(questions) > order.side_by_side:
            raise ApiError(
                400, f"at most {order.side_by_side} prompts are streamed at once", param="prompt"
            )
        return await self._write(request, order, asked)

    async def _write(self, request: Request, order: Order, asked: Sampling) -> Response:
        """One or several prompts, each with its texts, whole or as they come."""
        asked_for = order.questions[0]["max_new_tokens"] if order.questions else 0
        each = asked_for or (USUAL_ANSWER if order.frame.chat else USUAL_TOKENS)
        prompts = sum(_about(question) for question in order.questions or order.echoes)
        self.service.claim(request, prompts + each * order.count * len(order.questions))
        echoed: list[int] = []
        work = [self._echo(order, each, echoed) for each in order.echoes]
        found = await together(request, work, order.side_by_side)
        if found is None:
            self.service.count(request, sum(echoed), 0, whole=False)
            return Response(status_code=499)
        begun = [choice for choice, _ in found for _ in range(order.count)]
        if not getattr(asked, "echo", True):  # it was only counted
            begun = [Choice() for _ in begun]
        read = sum(tokens for _, tokens in found)
        if not order.questions:
            for choice in begun:
                choice.reason = "length"
            self.service.count(request, read, 0)
            if asked.stream:
                return EventStream(self._said(order, begun, read, _usage(asked)), [])
            return JSONResponse(order.frame.whole(begun, read, 0))
        if asked.stream:
            return await self._stream(request, order, begun, _usage(asked))
        return await self._whole(request, order, begun)

    async def _echo(
        self, order: Order, question: dict[str, Any], echoed: list[int]
    ) -> tuple[Choice, int]:
        """A prompt as the beginning of a choice, and its tokens, which are noted in `echoed`."""
        answers, table = await self.service.answers(order.backend, question)
        echoed.append(table["prompt_tokens"])
        text = question["prompt"] if isinstance(question["prompt"], str) else answers[0]["text"]
        return Choice(text, answers[0]["rows"] or []), table["prompt_tokens"]

    async def _stream(
        self, request: Request, order: Order, begun: list[Choice], usage: bool
    ) -> Response:
        """Events, once it is known that all prompts are read."""
        sources = [order.backend.ask(question) for question in order.questions]
        prompt = 0
        try:
            for source in sources:
                first = await anext(source)
                if "error" in first:
                    raise api_error(first["error"])
                prompt += first["prompt_tokens"]
        except BaseException:
            for source in sources:
                await source.aclose()
            raise
        tables = sources[0] if len(sources) == 1 else _merged(sources, order.count)
        said = [0] * (order.count * len(order.questions))
        lines = self._lines(order, tables, begun, prompt, said, usage)
        return EventStream(
            lines, [tables, *sources], lambda: self.service.count(request, prompt, sum(said))
        )

    async def _lines(
        self, order: Order, tables: Any, begun: list[Choice], prompt: int, said: list[int],
        usage: bool,
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """The events of a stream; how many tokens each text has is kept in `said`."""
        frame, reused = order.frame, 0
        for index in range(order.count if frame.chat else 0):
            yield event(frame.piece(index, "", None, None, first=True))
        for index, choice in enumerate(begun):
            yield event(frame.piece(index, choice.text, choice.rows, None))
        async for table in tables:
            if "error" in table:
                yield event(api_error(table["error"]).body())
                break
            index = table["index"]
            said[index] = table.get("tokens", said[index])
            rows = table.get("logprobs") if frame.logprobs else None
            if table.get("text") or rows:
                start = len(begun[index].text) if begun else 0
                yield event(frame.piece(index, table.get("text", ""), rows, None, start=start))
            if "end" in table:
                reused = max(reused, table["reused"])
                choice = Choice()
                choice.take(table)
                yield event(frame.piece(index, "", None, choice.reason))
        if usage:
            yield event(frame.last(prompt, sum(said), reused))
        yield event("[DONE]")

    async def _said(
        self, order: Order, begun: list[Choice], prompt: int, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events of a stream of prompts alone."""
        for index, choice in enumerate(begun):
            yield event(order.frame.piece(index, choice.text, choice.rows, choice.reason))
        if usage:
            yield event(order.frame.last(prompt, 0, 0))
        yield event("[DONE]")

    async def _whole(self, request: Request, order: Order, begun: list[Choice]) -> Response:
        """All texts at once; nothing goes on when the client has gone."""

        read = 0

        async def collect(question: dict[str, Any]) -> tuple[list[Choice], int, int]:
            nonlocal read
            choices = [Choice() for _ in range(order.count)]
            prompt = reused = 0
            async with aclosing(order.backend.ask(question)) as tables:
                async for table in tables:
                    if "error" in table:
                        raise api_error(table["error"])
                    prompt = table.get("prompt_tokens", prompt)
                    read += table.get("prompt_tokens", 0)
                    reused = max(reused, table.get("reused", 0))
                    if "index" in table:
                        choices[table["index"]].take(table)
            return choices, prompt, reused

        try:
            found = await together(request, map(collect, order.questions), order.side_by_side)
        except ApiError:
            self.service.count(request, read, 0)
            raise
        if found is None:
            self.service.count(request, read, 0, whole=False)
            return Response(status_code=499)
        choices = [choice for group, _, _ in found for choice in group]
        for choice, before in zip(choices, begun, strict=bool(begun)):
            choice.follow(before)
        prompt = sum(tokens for _, tokens, _ in found)
        self.service.count(request, prompt, sum(choice.tokens for choice in choices))
        return JSONResponse(order.frame.whole(choices, prompt, max(each[2] for each in found)))


async def _merged(
    sources: list[AsyncGenerator[dict[str, Any], None]], count: int
) -> AsyncGenerator[dict[str, Any], None]:
    """The tables of several questions as they come; the texts of each follow those before it."""
    tables: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def pour(number: int, source: AsyncGenerator[dict[str, Any], None]) -> None:
        async for table in source:
            where = {"index": number * count + table["index"]} if "index" in table else {}
            tables.put_nowait(table | where)
            if tables.qsize() > MOST_UNREAD:
                tables.put_nowait({"error": UNREAD})
                return

    tasks = [asyncio.create_task(pour(number, each)) for number, each in enumerate(sources)]
    for task in tasks:
        task.add_done_callback(lambda _: tables.put_nowait(None))
    try:
        left = len(tasks)
        while left:
            table = await tables.get()
            if table is None:
                left -= 1
            else:
                yield table
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _frame(kind: str, model: str, *, chat: bool, logprobs: bool) -> Frame:
    return Frame(f"{kind}-{secrets.token_hex(12)}", int(time.time()), model, chat, logprobs)


def _about(question: dict[str, Any]) -> int:
    """Tokens that its prompt may have."""
    if question["do"] == "chat":
        return sum(about(each["content"]) for each in question["messages"])
    return about(question["prompt"])


def _usage(asked: Sampling) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


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
        "stop": list(asked.stops), "bias": bias or None, "format": _format(asked.response_format),
    }  # fmt: skip


def _format(asked: ResponseFormat | None) -> dict[str, Any] | None:
    """What a text has to be; None for anything."""
    if asked is None or asked.type == "text":
        return None
    text = asked.regex if asked.json_schema is None else asked.json_schema.schema_
    return {"kind": asked.type, "text": text}
