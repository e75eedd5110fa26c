"""Questions about whole texts → calls of an engine → answers: labels, vectors, translations.

Knows: what a model can be asked once for each text, and how much of a text it reads.
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yantai.base.errors import DataError, ModelFileError, YantaiError
from yantai.infer.answer import answer
from yantai.infer.classify import classify
from yantai.infer.embed import embed
from yantai.infer.engine import Engine
from yantai.infer.language_model import LanguageModel
from yantai.infer.rewrite import summarize, translate
from yantai.infer.tag import tag
from yantai.serve.chances import chances_of
from yantai.tasks.seq2seq import asker_of

Send = Callable[[dict[str, Any]], None]

REWRITES = ["translate", "summarize"]
LONGEST_WORD = 100
"""Characters: so long may a word be that a WordPiece vocabulary does not know."""
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
        # made once: calls of the same object may stand in one batch
        self._answerers: dict[str, Callable[[list[Any]], list[Any]]] = {
            "embed": self._embed, "classify": self._classify, "tag": self._tag,
            "answer": self._answer, "translate": self._translate, "summarize": self._summarize,
            "echo": self._echo,
        }  # fmt: skip

    @functools.cached_property
    def most_characters(self) -> int:
        """No text with more fits into the model's context, whatever its tokens are."""
        longest = max(LONGEST_WORD, self.model.tokenizer.longest)
        return self.model.network.config.max_positions * longest

    def ask(self, question: Mapping[str, Any], send: Send) -> None:
        """One item a text.

        Args:
            question: `do`, and `input`: texts; for answers a `question` to each; `truncate`:
                whether to cut what is longer than the model reads.
            send: is told the `answers`, their `prompt_tokens`, and which texts were `cut`.

        Raises:
            DataError: a text is longer than the model reads, and `truncate` is not asked for.
        """
        do, texts = question["do"], question["input"]
        sizes, room = self._sizes(texts), self._room(do)
        long = [place for place, size in enumerate(sizes) if room is not None and size > room]
        if long and not question.get("truncate"):
            place = f"input[{long[0]}]" if len(texts) > 1 else "input"
            raise DataError(
                "E312", place, "longer than the model's context", expected=f"at most {room} tokens",
                got=f"{sizes[long[0]]:,}", do="" if do == "embed" else "ask with truncate: true",
            )  # fmt: skip
        if do == "answer":
            asked = question["question"]
            items: list[Any] = list(zip(asked, texts, strict=True))
            tokens = sum(sizes) + sum(self._sizes(asked))
        else:
            items = [text[: self.most_characters] for text in texts] if room else texts
            tokens = sum(size if room is None else min(size, room) for size in sizes)
        self._call(do, items, tokens, send, long)

    def echo(self, ids: list[int], top: int | None, send: Send) -> None:
        """The text of a prompt and, with `top`, how likely each of its tokens was, without BOS.

        Args:
            ids: of the prompt.
            top: how many of the likeliest are told beside each; None for no word of it.
            send: is told one answer with `text` and `rows`.
        """
        self._call("echo", [(ids, top)], len(ids), send)

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Their tokens; of one that cannot fit in any way, as many as it has characters."""
        fits = [len(text) <= self.most_characters for text in texts]
        short = [text for text, each in zip(texts, fits, strict=True) if each]
        counted = iter(self.model.tokenizer.encode_batch(short))
        return [len(next(counted)) if each else len(text)
                for text, each in zip(texts, fits, strict=True)]  # fmt: skip

    def _room(self, do: str) -> int | None:
        """Tokens of a text that are read; None where long ones are read piece by piece."""
        frame = self.model.frame
        if do in REWRITES:
            return asker_of(frame).room
        if do == "embed":
            return frame.length - len(frame.tokenizer.prompt(""))
        return frame.room if do == "classify" else None

    def _call(
        self, do: str, items: list[Any], tokens: int, send: Send, cut: Sequence[int] = ()
    ) -> None:
        """Ask the engine for each item; tell it all when the last is there."""
        futures = [self.engine.call(self._answerers[do], item) for item in items]
        found: list[Any] = [None] * len(futures)
        left = [len(futures)]
        lock = threading.Lock()

        def keep(place: int) -> Callable[[Any], None]:
            def done(future: Any) -> None:
                error = None if future.cancelled() else future.exception()
                with lock:
                    found[place] = error if error is not None else future.result()
                    left[0] -= 1
                    if left[0]:
                        return
                bad = next((each for each in found if isinstance(each, Exception)), None)
                told = {"answers": found, "prompt_tokens": tokens, "cut": list(cut)}
                send(told | {"end": "stop"} if bad is None else {"error": as_error(bad)})

            return done

        for place, future in enumerate(futures):
            future.add_done_callback(keep(place))

    def _embed(self, texts: list[str]) -> list[Any]:
        return embed(self.model, texts).tolist()

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

    def _translate(self, texts: list[str]) -> list[Any]:
        return list(translate(self.model, texts))

    def _summarize(self, texts: list[str]) -> list[Any]:
        return list(summarize(self.model, texts))

    def _echo(self, prompts: list[tuple[list[int], int | None]]) -> list[Any]:
        found = []
        for ids, top in prompts:
            first = int(ids[:1] == [self.model.tokenizer.bos_id])
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
    return {"status": status, "message": str(error), "code": code, "param": error.where}
