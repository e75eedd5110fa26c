"""Questions of clients → requests of an engine → pieces of answers.

Knows: a model with its texts, and an engine. What goes in and out are plain tables, so that a desk
may stand in the server's process or in one of its own.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from yantai.adapt.quantize import packed_modules
from yantai.base.config import build
from yantai.base.errors import DataError, ModelFileError, ResourceError, YantaiError
from yantai.core.face import Model
from yantai.infer.answer import answer
from yantai.infer.classify import classify
from yantai.infer.embed import embed
from yantai.infer.engine import Engine
from yantai.infer.grammar import Grammars
from yantai.infer.language_model import LanguageModel
from yantai.infer.request import Request
from yantai.infer.rewrite import summarize, translate
from yantai.infer.settings import Generation
from yantai.infer.stops import HoldBack
from yantai.infer.tag import tag

Send = Callable[[dict[str, Any]], None]

LONGEST_WORD = 100
"""Characters: so long may a word be that a WordPiece vocabulary does not know."""
STATUS = {"E804": 429, "E803": 503, "E407": 400}
"""What an error of ours is over HTTP, where it is not the client's own fault."""


@dataclass
class _Answer:
    """One of the texts that a question asks for, as it comes, or `whole` at its end."""

    index: int
    whole: bool
    send: Send
    decoder: Any
    held: HoldBack
    top: int | None
    request: Request | None = None
    tokens: int = 0
    text: str = ""
    kept: list[dict[str, Any]] = field(default_factory=list)

    def say(self) -> None:
        """Send what has gathered."""
        if self.text or self.kept:
            self.send({"index": self.index, "text": self.text, "logprobs": self.kept or None})
            self.text, self.kept = "", []


class Desk:
    """Serves one model.

    Args:
        model: with a tokenizer.
        slots: continuations at once.
        waiting: further ones that may wait.
        about: what else is known of the model: the `task` that it was taught, its `run`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        slots: int = 16,
        waiting: int = 64,
        about: Mapping[str, Any] | None = None,
    ):
        self.model, self.about = model, dict(about or {})
        self.engine = Engine(model.network, slots=slots, waiting=waiting)
        self._open: dict[int, list[Request]] = {}
        self._lock = threading.Lock()
        self._grammars: Grammars | None = None
        # made once: calls of the same object may stand in one batch
        self._answerers: dict[str, Callable[[list[Any]], list[Any]]] = {
            "embed": self._embed, "classify": self._classify, "tag": self._tag,
            "answer": self._answer, "translate": self._translate, "summarize": self._summarize,
        }  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """What the server needs to know of the model."""
        network, job = self.model.network, self.model.job
        shape = network.config.shape
        task = job or self.about.get("task", "")
        can = [job] if job else ["embed"]
        if not job and shape == "decoder":
            can += ["chat", "complete"] + ([task] if task in REWRITES else [])
        elif not job and shape == "encoder-decoder":
            can += [task] if task in REWRITES else REWRITES
        return self.about | {
            "family": self.model.family.name, "shape": shape, "task": task, "can": can,
            "context": network.config.max_positions,
            "vocabulary": self.model.tokenizer.vocab_size,
            **_weights(network),
        }  # fmt: skip

    def ask(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        """Begin to answer; `send` is told everything, from whatever thread.

        Args:
            id: by which it can be cancelled.
            question: `do` and what belongs to it; see `_write`, `_job`. With `whole`, a text is
                sent once, when it has ended.
            send: is given tables with `text`, `end` or `error`.
        """
        try:
            do = question["do"]
            if do in ("chat", "complete"):
                self._write(id, question, send)
            else:
                self._job(question, send)
        except YantaiError as error:
            send({"error": _as_error(error)})

    def cancel(self, id: int) -> None:
        """Whoever asked has gone."""
        with self._lock:
            requests = self._open.pop(id, [])
        for request in requests:
            request.cancel()

    def close(self) -> None:
        """End everything."""
        self.engine.close()

    # ------------------------------------------------------------ texts

    def _write(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        ids = self._prompt(question)
        room = self.model.network.config.max_positions
        asked = question.get("max_new_tokens")
        if len(ids) >= room or (asked is not None and len(ids) + asked > room):
            wanted = f"{len(ids)} tokens of the prompt" + (f" and {asked} to come" if asked else "")
            raise DataError(
                "E312", "messages" if question["do"] == "chat" else "prompt",
                "longer than the model's context", expected=f"at most {room}", got=wanted,
            )  # fmt: skip
        known = self.model.network.config.vocab_size
        odd = next((id for id in question.get("bias") or {} if id >= known), None)
        if odd is not None:
            raise DataError(
                "E304", "logit_bias", "no such token", expected=f"0 to {known - 1}", got=odd
            )
        count = question.get("n") or 1
        given = {key: question[key] for key in SETTINGS if question.get(key) is not None}
        given |= {"max_new_tokens": asked or room - len(ids), "seed": question.get("seed") or 0}
        settings = build(Generation, given, "request")
        ends = self.model._turn_ends()
        left = [count]
        guides = self._guides(question.get("format"), count)
        answers = []
        before = [] if question["do"] == "chat" else ids  # a conversation's answer is a beginning
        for index in range(count):
            texts = _Answer(
                index, bool(question.get("whole")), send,
                self.model.tokenizer.stream(after=before),
                HoldBack(question.get("stop") or ()), question.get("logprobs"),
            )  # fmt: skip
            texts.request = Request(
                ids, settings, ends, number=index, bias=question.get("bias"), guide=guides[index],
                on_token=self._listener(texts, ends), on_end=self._ender(id, texts, left),
            )  # fmt: skip
            answers.append(texts)
        requests = [each.request for each in answers if each.request is not None]
        with self._lock:
            self._open[id] = requests
        try:
            self.engine.submit_all(requests, lambda: send({"prompt_tokens": len(ids)}))
        except YantaiError:
            self.cancel(id)
            raise

    def _guides(self, wanted: Mapping[str, Any] | None, count: int) -> list[Any]:
        """A walk through the grammar for each text."""
        if wanted is None:
            return [None] * count
        if self._grammars is None:
            self._grammars = Grammars(self.model.tokenizer, self.model._turn_ends())
        return [self._grammars.guide(wanted["kind"], wanted["text"]) for _ in range(count)]

    @functools.cached_property
    def _most_characters(self) -> int:
        """No text with more fits into the model's context, whatever its tokens are."""
        longest = max(LONGEST_WORD, self.model.tokenizer.longest)
        return self.model.network.config.max_positions * longest

    def _check_size(self, where: str, size: int) -> None:
        """Refuse what cannot fit before its tokens are counted."""
        room = self.model.network.config.max_positions
        if size > self._most_characters:
            raise DataError(
                "E312", where, "longer than the model's context", expected=f"at most {room} tokens",
                got=f"{size:,} characters",
            )  # fmt: skip

    def _prompt(self, question: Mapping[str, Any]) -> list[int]:
        if question["do"] == "chat":
            size = sum(len(each["content"]) for each in question["messages"])
            self._check_size("messages", size)
            return self.model.chat_format.render(question["messages"], reply=True).ids
        prompt = question["prompt"]
        if isinstance(prompt, str):
            self._check_size("prompt", len(prompt))
            return self.model._encode(prompt)
        known = self.model.network.config.vocab_size
        odd = next((id for id in prompt if not 0 <= id < known), None)
        if odd is not None:
            raise DataError(
                "E304", "prompt", "no such token", expected=f"0 to {known - 1}", got=odd
            )
        return list(prompt)

    def _listener(self, texts: _Answer, ends: frozenset[int]) -> Callable[[int, Tensor], bool]:
        tokenizer = self.model.tokenizer

        def listen(token: int, logits: Tensor) -> bool:
            texts.tokens += 1
            row = (
                _with_chances(token, logits, texts.top, tokenizer)
                if texts.top is not None
                else None
            )
            if token in ends:
                return False
            piece = texts.held.feed(texts.decoder.feed(token))
            if row is not None:
                texts.kept.append(row)
            texts.text += piece
            if piece and not texts.whole:
                texts.say()
            return texts.held.stopped

        return listen

    def _ender(self, id: int, texts: _Answer, left: list[int]) -> Callable[[str], None]:
        def end(reason: str) -> None:
            if reason == "failed":
                known = texts.request.error if texts.request is not None else None
                failed = ResourceError("E803", "engine", "failed while it answered; ask again")
                own = known if isinstance(known, YantaiError) else failed
                texts.send({"index": texts.index, "error": _as_error(own)})
            else:
                texts.text += texts.held.feed(texts.decoder.finish()) + texts.held.finish()
                texts.say()
                reused = texts.request.reused if texts.request is not None else 0
                texts.send({"index": texts.index, "end": reason, "tokens": texts.tokens,
                            "reused": reused})  # fmt: skip
            left[0] -= 1
            if left[0] == 0:
                with self._lock:
                    self._open.pop(id, None)

        return end

    # ------------------------------------------------------------ jobs

    def _job(self, question: Mapping[str, Any], send: Send) -> None:
        """One item a text; those that wait together are one batch."""
        do, texts = question["do"], question["input"]
        if do != "answer":  # what is cut anyway need not become tokens first
            texts = [text[: self._most_characters] for text in texts]
        items = list(zip(question["question"], texts, strict=True)) if do == "answer" else texts
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
                if bad is None:
                    tokens = sum(map(len, self.model.tokenizer.encode_batch(texts)))
                    send({"answers": found, "prompt_tokens": tokens, "end": "stop"})
                else:
                    send({"error": _as_error(bad)})

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


REWRITES = ["translate", "summarize"]
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty")  # fmt: skip


def _weights(network: Model) -> dict[str, Any]:
    """How many they are, and what they are stored as."""
    plain = list(network.parameters())
    codes = {each.codes.data_ptr(): each for _, each in packed_modules(network)}
    packed = sum(each.codes.numel() * 8 // each.form.bits for each in codes.values())
    bits = sorted({each.form.bits for each in codes.values()})
    kind = str(plain[0].dtype).removeprefix("torch.")
    if bits:
        kind = f"{' and '.join(str(each) for each in bits)} bits"
    return {"parameters": packed + sum(each.numel() for each in plain), "weights": kind}


def _with_chances(token: int, logits: Tensor, top: int, tokenizer: Any) -> dict[str, Any]:
    """ln p of a token before any rule, and of the likeliest beside it."""
    logs = logits.float().log_softmax(-1)

    def row(id: int) -> dict[str, Any]:
        text = tokenizer.decode([id], skip_special=False)
        raw = tokenizer.bytes_of_ids
        spelled = list(raw[id]) if raw is not None and id < len(raw) else list(text.encode())
        return {"token": text, "logprob": float(logs[id]), "bytes": spelled, "id": id}

    likeliest = torch.topk(logs, top).indices.tolist() if top else []
    return row(token) | {"top": [row(id) for id in likeliest]}


def _as_error(error: BaseException) -> dict[str, Any]:
    """For the client; what is no error of ours is a fault of the server's."""
    if not isinstance(error, YantaiError):
        return {"status": 500, "message": "internal error", "code": None, "param": None}
    status = STATUS.get(error.code, 500 if isinstance(error, ModelFileError) else 400)
    too_long = error.code == "E312" and "context" in error.what
    code = "context_length_exceeded" if too_long else error.code
    return {"status": status, "message": str(error), "code": code, "param": error.where}
