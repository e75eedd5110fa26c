"""Questions about whole texts → calls of an engine → answers: labels, vectors, translations.

Knows: what a model can be asked once for each text, and how much of a text it reads.
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yantai.base.errors import DataError, ModelFileError, ResourceError, YantaiError
from yantai.infer.answer import answer
from yantai.infer.calls import Call
from yantai.infer.classify import classify
from yantai.infer.embed import vectors
from yantai.infer.engine import Engine
from yantai.infer.inputs import given_texts
from yantai.infer.language_model import LanguageModel
from yantai.infer.rewrite import Rewrite, rewrites, room_of
from yantai.infer.tag import tag
from yantai.serve.backend import FULL
from yantai.serve.chances import chances_of
from yantai.tasks.span import question_room

Send = Callable[[dict[str, Any]], None]

REWRITES = ["translate", "summarize"]
LONGEST_WORD = 100
"""Characters: so long may a word be that a WordPiece vocabulary does not know."""
PIECES = 64
"""Of the model's context: so long may a text be that is read piece by piece."""
STATUS = {"E804": 429, "E803": 503, "E407": 400}
"""What an error of ours is over HTTP, where it is not the client's own fault."""


class JobDesk:
    """The part of a desk that is asked about whole texts.

    Args:
        model: with a tokenizer.
        engine: whose thread answers; calls of one kind that wait together are one batch.
    """

    def __init__(self, model: LanguageModel, engine: Engine):
        self.model, self.engine = model, engine
        self._open: dict[int, list[Call]] = {}
        self._lock = threading.Lock()
        # made once: calls of the same object may stand in one batch
        self._answerers: dict[str, Callable[[list[Any]], list[Any]]] = {
            "embed": self._embed, "classify": self._classify, "tag": self._tag,
            "answer": self._answer, "translate": self._rewrite, "summarize": self._rewrite,
            "echo": self._echo,
        }  # fmt: skip

    @functools.cached_property
    def most_characters(self) -> int:
        """No text of ordinary words with more fits into the model's context."""
        longest = max(LONGEST_WORD, self.model.tokenizer.longest)
        return self.model.network.config.max_positions * longest

    @property
    def most_tokens(self) -> int:
        """Of a text that is read piece by piece."""
        return PIECES * self.model.network.config.max_positions

    def ask(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        """One item a text.

        Args:
            id: by which it can be cancelled.
            question: `do`, and `input`: texts; for answers a `question` to each; `truncate`:
                whether to cut what is longer than the model reads.
            send: is told the `answers`, their `prompt_tokens`, how many `tokens_said` they have
                where they were written, and which texts were `cut`.

        Raises:
            DataError: a text is longer than the model reads, and `truncate` is not asked for.
            ResourceError: too many questions are open.
        """
        do, texts, asked = question["do"], question["input"], question.get("question") or []
        room, tokens, cut = self._room(do), 0, set()
        for where, several, most in (
            ("input", texts, room),
            ("question", asked, question_room(self.model.frame)),
        ):
            for place, (size, got) in enumerate(self._sizes(several, most)):
                if most is None and size > self.most_tokens:
                    name = f"{where}[{place}]" if len(several) > 1 else where
                    raise self._too_long(name, self.most_tokens, got, "embed")
                if most is not None and size > most:
                    cut.add(place)
                    if not question.get("truncate"):
                        name = f"{where}[{place}]" if len(several) > 1 else where
                        raise self._too_long(name, most, got, do)
                tokens += size if most is None else min(size, most)
        items: list[Any] = list(zip(asked, texts, strict=True)) if asked else texts
        if room is not None:
            items = [text[: self.most_characters] for text in texts]  # more is cut anyway
        self._call(id, do, items, tokens, send, sorted(cut))

    def echo(
        self, id: int, ids: list[int], top: int | None, send: Send, *, whole: bool = True
    ) -> None:
        """The text of a prompt and, with `top`, how likely each of its tokens was.

        Args:
            id: by which it can be cancelled.
            ids: of the prompt.
            top: how many of the likeliest are told beside each; None for no word of it.
            send: is told one answer with `text` and `rows`.
            whole: whether a BOS at its beginning belongs to it.

        Raises:
            ResourceError: too many questions are open.
        """
        first = int(not whole and ids[:1] == [self.model.tokenizer.bos_id])
        self._call(id, "echo", [(ids, top, first)], len(ids), send)

    def cancel(self, id: int) -> None:
        """Whoever asked has gone: what was not begun is left undone, the rest ends soon."""
        with self._lock:
            calls = self._open.pop(id, [])
        for call in calls:
            call.abandon()

    @staticmethod
    def _too_long(where: str, most: int, got: str, do: str) -> DataError:
        return DataError(
            "E312", where, "longer than the model's context", expected=f"at most {most} tokens",
            got=got, do="" if do == "embed" else "ask with truncate: true",
        )  # fmt: skip

    def _sizes(self, texts: Sequence[str], most: int | None) -> list[tuple[int, str]]:
        """Their tokens, and how these are told: only a beginning is read that alone is too long."""
        count = self.model.tokenizer.encode_batch
        longest = self.most_characters * (PIECES if most is None else 1)
        heads = [text[:longest] for text in texts]
        found = []
        for text, head, ids in zip(texts, heads, count(heads), strict=True):
            size, whole = len(ids), len(head) == len(text)
            if most is not None and not whole and size <= most:
                size, whole = len(count([text])[0]), True
            found.append((size, f"{size:,}" if whole else f"more than {size:,}"))
        return found

    def _room(self, do: str) -> int | None:
        """Tokens of a text that are read; None where long ones are read piece by piece."""
        return room_of(self.model.frame, do)

    def _call(
        self, id: int, do: str, items: list[Any], tokens: int, send: Send, cut: Sequence[int] = ()
    ) -> None:
        """Ask the engine for each item; tell it all when the last is there."""
        most = self.engine.at_once
        with self._lock:
            if most is not None and len(self._open) >= most:
                raise ResourceError("E804", "engine", "too many wait", got=len(self._open))
            futures = [self.engine.call(self._answerers[do], item) for item in items]
            self._open[id] = futures
        found: list[Any] = [None] * len(futures)
        left = [len(futures)]
        lock = threading.Lock()

        def keep(place: int) -> Callable[[Any], None]:
            def done(future: Any) -> None:
                error = None if future.cancelled() else future.exception()
                with lock:
                    if not future.cancelled():
                        found[place] = error if error is not None else future.result()
                    left[0] -= 1
                    if left[0]:
                        return
                with self._lock:
                    self._open.pop(id, None)
                if any(each.cancelled() for each in futures):  # nobody listens
                    return
                bad = next((each for each in found if isinstance(each, Exception)), None)
                written = [each for each in found if isinstance(each, Rewrite)]
                answers = [each.text for each in written] or found
                said = sum(each.tokens for each in written)
                told = {"answers": answers, "prompt_tokens": tokens, "tokens_said": said,
                        "cut": list(cut)}  # fmt: skip
                send(told | {"end": "stop"} if bad is None else {"error": as_error(bad)})

            return done

        for place, future in enumerate(futures):
            future.add_done_callback(keep(place))

    def _embed(self, texts: list[str]) -> list[Any]:
        return vectors(self.model, texts).tolist()

    def _classify(self, texts: list[str]) -> list[Any]:
        return [
            {"labels": list(each.labels), "probabilities": each.probabilities}
            for each in classify(self.model, texts)
        ]

    def _tag(self, texts: list[str]) -> list[Any]:
        return [[span._asdict() for span in spans] for spans in tag(self.model, texts)]

    def _answer(self, pairs: list[tuple[str, str]]) -> list[Any]:
        found = answer(self.model, [asked for asked, _ in pairs], [text for _, text in pairs])
        return [{"text": one.text, "start": one.start, "end": one.end, "score": one.score}
                for one in found]  # fmt: skip

    def _rewrite(self, texts: list[str]) -> list[Any]:
        return list(rewrites(self.model.network, self.model.frame, given_texts(texts)))

    def _echo(self, prompts: list[tuple[list[int], int | None, int]]) -> list[Any]:
        found = []
        for ids, top, first in prompts:
            text = self.model.tokenizer.decode(ids[first:], skip_special=False)
            rows = None if top is None else chances_of(self.model, ids, top, first)
            found.append({"text": text, "rows": rows})
        return found


def as_error(error: BaseException) -> dict[str, Any]:
    """For the client; what is no error of ours is a fault of the server's."""
    if not isinstance(error, YantaiError):
        return {"status": 500, "message": "internal error", "code": None, "param": None}
    status = STATUS.get(error.code, 500 if isinstance(error, ModelFileError) else 400)
    too_long = error.code == "E312" and "context" in error.what
    code = "context_length_exceeded" if too_long else error.code
    if status == FULL["status"]:
        return dict(FULL)
    if status != 400:  # no field of theirs is wrong
        return {"status": status, "message": str(error), "code": code, "param": None}
    return {"status": status, "message": str(error), "code": code, "param": error.where}
