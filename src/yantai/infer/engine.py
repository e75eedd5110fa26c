"""Many requests at once: one shared forward a step; requests join and leave in the middle.

Knows: a model, requests as ids, in which order they are served. Knows no text and no network. One
thread of its own does all computing; whoever asks is told of each token by a call from it.

    engine = Engine(model)
    request = engine.submit(Request(ids, settings, stop_ids, on_token=print))
    request.wait()
"""

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from yantai.base.device import release_threads
from yantai.base.errors import ResourceError, UsageError, YantaiError
from yantai.core.cache import Cache
from yantai.core.face import Model
from yantai.infer.calls import Answer, Call, Calls
from yantai.infer.compiled import at_hand
from yantai.infer.generate import check_room
from yantai.infer.guesses import MOST, Echo, Worth
from yantai.infer.prefixes import Prefixes
from yantai.infer.reader import PREFILL_CHUNK
from yantai.infer.request import Reading, Readings, Request
from yantai.infer.row import Row, next_tokens
from yantai.infer.settings import Generation
from yantai.infer.slots import CacheSlots, OneSlot, slots_of

BESIDE = 128
"""Tokens of prompts that are read between two steps of the others."""
PREFIX_BYTES = 256 << 20


class Engine:
    """Serves requests of one model.

    Args:
        model: a decoder, prepared for decoding; other shapes answer `call` alone.
        slots: continuations at once.
        waiting: further requests that may be open beside these; None for any number.
        prefix_bytes: what keys and values of earlier prompts may take; 0 keeps none.
    """

    def __init__(
        self,
        model: Model,
        *,
        slots: int = 16,
        waiting: int | None = None,
        prefix_bytes: int = PREFIX_BYTES,
    ):
        self.model, self.slots, self.most_waiting = model, slots, waiting
        self.steps = self.guessed = 0
        self._worth, self._prefix_bytes = Worth(), prefix_bytes
        self._news = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._open: list[Request] = []
        self._calls = Calls()
        self._closed = False
        self._start_afresh()
        release_threads()  # of whoever loaded the model: another thread computes now
        self._thread = threading.Thread(target=self._serve, name="yantai-engine", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ for everybody

    def submit(self, request: Request) -> Request:
        """Put a request in line; errors as of `submit_all`."""
        self.submit_all([request])
        return request

    def submit_all(
        self, requests: Sequence[Request], announce: Callable[[], None] = lambda: None
    ) -> None:
        """Put requests in line, all of them or none.

        Args:
            requests: those of one question.
            announce: is called when they are accepted, before any of them is told a token.

        Raises:
            UsageError: one does not fit the model's context.
            ResourceError: too many are waiting, or the engine is closed.
        """
        for each in requests:
            self._prepare(each)
        with self._news:
            if self._closed:
                raise ResourceError("E803", "engine", "is closed")
            if self.most_waiting is not None:
                self._open = [each for each in self._open if not each.is_over]
                assert self.at_once is not None
                if len(self._open) + len(requests) > self.at_once:
                    raise ResourceError("E804", "engine", "too many wait", got=self.waiting)
            announce()
            self._open += requests if self.most_waiting is not None else []
            self._inbox.extend(requests)
            self._news.notify()

    def _prepare(self, request: Request) -> None:
        if self._slots is None:
            raise UsageError("E201", "model", "only a decoder continues", do="use call")
        if request.settings.num_beams > 1:
            raise UsageError("E201", "num_beams", "the engine searches no beams")
        request.row = Row(
            request.ids, request.settings, request.stop_ids, request.number, request.guide,
            request.bias,
        )  # fmt: skip
        check_room(self.model, request.row.ids, request.row.limit)

    def tokens(
        self, ids: Sequence[int], settings: Generation, stop_ids: frozenset[int] = frozenset()
    ) -> Iterator[int]:
        """Those that continue a prompt, as they come; who stops listening has cancelled.

        Raises:
            UsageError: as of `submit_all`.
            ResourceError: the same, or the engine failed.
        """
        news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        request = Request(
            ids, settings, stop_ids,
            on_token=lambda token, _: news.put(token), on_end=lambda _: news.put(None),
        )  # fmt: skip
        self.submit(request)
        try:
            while (token := news.get()) is not None:
                yield token
            request.wait()
        finally:
            request.cancel()

    def call(self, answer: Answer, item: Any) -> Call:
        """Let the engine's thread answer something else; arguments as of `Calls.add`."""
        with self._news:
            if self._closed:
                raise ResourceError("E803", "engine", "is closed")
            call = self._calls.add(answer, item)
            self._news.notify()
        return call

    @property
    def at_once(self) -> int | None:
        """Requests that may be open; None for any number."""
        return None if self.most_waiting is None else self._most + self.most_waiting

    @property
    def waiting(self) -> int:
        """Requests of which nothing was read yet."""
        return len(self._inbox)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return self._has_work()

    @property
    def active(self) -> int:
        """Requests that are being continued."""
        return len(self._active)

    @property
    def figures(self) -> dict[str, int]:
        """Of now: requests that wait and that are being continued, and what caches take.

        `steps` is how many there were so far; `cache_bytes` is of those who are being continued,
        `prefix_bytes` of what was read before.
        """
        return {
            "waiting": self.waiting, "active": self.active, "calls": len(self._calls),
            "steps": self.steps,
            "cache_bytes": self._slots.bytes if self._slots else 0,
            "prefix_bytes": self._prefixes.bytes,
        }  # fmt: skip

    def close(self) -> None:
        """Cancel what there is and end the thread."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    # ------------------------------------------------------------ its own thread

    def _start_afresh(self) -> None:
        self._active: list[Request] = []
        self._readings = Readings()
        self._prefixes = Prefixes(self._prefix_bytes)
        decodes = self.model.config.shape == "decoder"
        self._slots = slots_of(self.model, self.slots) if decodes else None
        self._most = 1 if isinstance(self._slots, OneSlot) else self.slots

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._has_work())
                if self._closed:
                    break
            with torch.inference_mode():
                self._calls.answer_some(self._between_steps)
                self._turn()
            self.steps += 1
        for request in [*self._active, *self._inbox, *self._being_read()]:
            request.end("cancelled")
        self._calls.cancel()

    def _between_steps(self) -> None:
        """In the middle of a call: it goes on, and who is being continued does so, too."""
        self.steps += 1
        if self._active or self._inbox or self._readings.open:
            self._turn()

    def _being_read(self) -> list[Request]:
        return [each.request for each in self._readings.open]

    def _turn(self) -> None:
        """A step; whatever a model raises, the next request is served."""
        try:
            self._step()
        except Exception as error:
            traceback.print_exc()
            failed = [*self._active, *self._being_read()]
            self._active, self._readings = [], Readings()
            for request in failed:
                request.error = error
                request.end("failed")
            self._start_afresh()

    def _has_work(self) -> bool:
        return bool(self._inbox or self._calls or self._active or self._readings.open)

    def _step(self) -> None:
        """Some of the prompts, then a token for everybody who is being continued."""
        self._drop_cancelled()
        self._read_prompts(BESIDE if self._active else PREFILL_CHUNK)
        if self._active:
            if not self._guess():
                self._next_tokens()
            self._let_out()

    def _read_prompts(self, left: int) -> None:
        """So many tokens of prompts: a piece of a long one, or several short ones."""
        native = getattr(self._slots, "native", None)
        while left > 0:
            self._begin_next()
            if not self._readings.open:
                return
            reading, piece = self._readings.turn(left)
            logits = reading.read(self.model, piece, native)
            left -= piece
            if logits is not None:
                self._let_in(reading, logits)
                self._readings.open.remove(reading)

    def _begin_next(self) -> None:
        """Of those who wait, as long as there is a place."""
        while len(self._active) + len(self._readings.open) < self._most:
            with self._news:
                request = self._readings.next_of(self._inbox)
                if request is None:
                    return
                self._inbox.remove(request)
            self._begin(request)

    def _next_tokens(self) -> None:
        """One for everybody."""
        assert self._slots is not None
        began = time.perf_counter()
        logits = at_hand(self._slots.step([request.row.ids[-1] for request in self._active]))
        if len(self._active) == 1:
            self._worth.plain(time.perf_counter() - began)
        known = next_tokens(logits, [request.row for request in self._active])
        for request, row, token in list(zip(self._active, logits, known, strict=True)):
            self._tell(request, row, token)

    def _guess(self) -> bool:
        """Several tokens for a request that is alone, if what it says was said before."""
        slots, request = self._slots, self._active[0]
        alone = len(self._active) == 1 and not self._readings.open
        if not (alone and self._worth.is_tried and isinstance(slots, CacheSlots)):
            return False
        if not slots.reads_ahead or not request.guesses:
            return False
        if request.echo is None:
            request.echo = Echo(request.row.ids)
        request.echo.follow(request.row.ids)
        left = request.row.limit - request.row.said
        guess = request.echo.guess(min(MOST, left - 1))
        if not guess:
            return False
        began = time.perf_counter()
        logits = slots.read([request.row.ids[-1], *guess])
        seconds = time.perf_counter() - began
        taken = 0
        for row, expected in zip(logits, [*guess, None], strict=True):
            self._tell(request, row)
            taken += 1
            if request.row.ended or request.row.ids[-1] != expected:
                break
        slots.forget(len(logits) - taken)
        self._worth.guessed(taken, seconds)
        self.guessed += taken - 1
        return True

    def _begin(self, request: Request) -> None:
        """Read it from now on; one for which there is no room fails, and nobody else."""
        try:
            self._readings.open.append(self._begun(request))
        except Exception as error:
            traceback.print_exc()
            request.error = error
            request.end("failed")

    def _begun(self, request: Request) -> "Reading":
        parameter = next(self.model.parameters())
        dtype = self.model.compute_dtype or parameter.dtype
        size = len(request.row.ids)
        assert self._slots is not None
        length = self._slots.length_for(size, request.row.limit)
        cache = self.model.new_cache(1, length, dtype=dtype, device=parameter.device)
        if isinstance(cache, Cache) and isinstance(self._slots, CacheSlots):
            known, values = self._prefixes.find(request.row.ids)
            known = min(known, size - 1)  # the last token is read, for its logits
            if values is not None:
                cache.store[:, :, 0, :, :known] = values[:, :, :, :known]
                cache.filled = request.reused = known
        return Reading(request, cache)

    def _let_in(self, reading: "Reading", logits: Tensor) -> None:
        """A prompt was read: its first token, and a row for the others."""
        request, cache = reading.request, reading.cache
        if isinstance(cache, Cache) and isinstance(self._slots, CacheSlots):
            self._prefixes.keep(request.row.ids, cache.store[:, :, 0])
        if request.row.ended:  # no token was asked for
            request.end(request.row.ended)
            return
        self._tell(request, logits)
        if request.row.ended:
            request.end(request.row.ended)
            return
        assert self._slots is not None
        self._slots.join(cache)
        self._active.append(request)

    def _tell(self, request: Request, logits: Tensor, known: int | None = None) -> None:
        try:
            token = request.row.choose(logits, known)
            if request.on_token(token, logits) and not request.row.ended:
                request.row.ended = "stop"
        except Exception as error:  # of this request alone: a listener, a grammar
            if not isinstance(error, YantaiError):  # that is an answer, this is a fault
                traceback.print_exc()
            request.error, request.row.ended = error, "failed"

    def _drop_cancelled(self) -> None:
        with self._news:
            gone = [each for each in self._inbox if each.cancelled]
            self._inbox = deque(each for each in self._inbox if not each.cancelled)
        for request in gone + self._readings.take_cancelled():
            request.end("cancelled")
        for request in self._active:
            if request.cancelled:
                request.row.ended = "cancelled"
        self._let_out()

    def _let_out(self) -> None:
        """Free the rows of those that have ended; the last one takes each place."""
        for place in reversed(range(len(self._active))):
            request = self._active[place]
            if not request.row.ended:
                continue
            if isinstance(self._slots, CacheSlots):  # a chat will send it all again
                read = request.row.ids[:-1]
                kept = self._slots.kept(place)
                self._prefixes.keep(read[: kept.shape[3]], kept)
            assert self._slots is not None
            self._slots.leave(place)
            last = self._active.pop()
            if place < len(self._active):
                self._active[place] = last
            request.end(request.row.ended)
