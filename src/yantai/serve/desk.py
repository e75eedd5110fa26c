"""Questions of clients → requests of an engine → pieces of answers.

Knows: a model with its texts, and an engine. What goes in and out are plain tables, so that a desk
may stand in the server's process or in one of its own.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from yantai.adapt.quantize import packed_modules
from yantai.base.config import build
from yantai.base.errors import DataError, ResourceError, YantaiError
from yantai.core.face import Model
from yantai.infer.engine import Engine
from yantai.infer.grammar import Grammars
from yantai.infer.language_model import LanguageModel
from yantai.infer.request import Request
from yantai.infer.rewrite import answer_length
from yantai.infer.settings import Generation
from yantai.infer.stops import HoldBack
from yantai.serve.chances import chance_of, place_of
from yantai.serve.job_desk import REWRITES, JobDesk, Send, as_error


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
    names_end: bool = False
    tokens: int = 0
    place: int = 0
    text: str = ""
    kept: list[dict[str, Any]] = field(default_factory=list)

    def say(self, **last: Any) -> None:
        """Send what has gathered, and `last` with it."""
        if self.text or self.kept or last:
            table = {"index": self.index, "text": self.text, "logprobs": self.kept or None}
            self.send(table | {"tokens": self.tokens} | last)
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
        self._asked: dict[int, bool] = {}  # not yet open, and whether they were cancelled
        self._lock, self._one_grammar = threading.Lock(), threading.Lock()
        self._grammars: Grammars | None = None
        self.jobs = JobDesk(model, self.engine)

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
        writes = {"answer_length": answer_length(self.model.frame)} if can[-1] in REWRITES else {}
        return self.about | writes | {
            "family": self.model.family.name, "shape": shape, "task": task, "can": can,
            "context": network.config.max_positions,
            "vocabulary": self.model.tokenizer.vocab_size,
            "slots": self.engine.slots, "at_once": self.engine.at_once,
            **_weights(network),
        }  # fmt: skip

    def ask(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        """Begin to answer; `send` is told everything, from whatever thread.

        Args:
            id: by which it can be cancelled.
            question: `do` and what belongs to it; see `_write`, `JobDesk`. With `whole`, a
                text is sent once, when it has ended.
            send: is given tables with `text`, `answers`, `end` or `error`.
        """
        self.expect(id)
        try:
            if not self._asked[id]:
                self._begin(id, question, send)
        except YantaiError as error:
            send({"error": as_error(error)})
        finally:
            with self._lock:
                gone = self._asked.pop(id)
            if gone:  # before it was asked, or while its text was read
                self.cancel(id)

    def _begin(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        do = question["do"]
        if do in ("chat", "complete"):
            self._write(id, question, send)
        elif do == "echo":
            named = not isinstance(question["prompt"], str)  # then BOS is the client's own
            self.jobs.echo(id, self._fitting(question), question.get("logprobs"), send, whole=named)
        else:
            self.jobs.ask(id, question, send)

    def expect(self, id: int) -> None:
        """It will be asked, and can be cancelled from now on."""
        with self._lock:
            self._asked.setdefault(id, False)

    def cancel(self, id: int) -> None:
        """Whoever asked has gone."""
        with self._lock:
            if id in self._asked:
                self._asked[id] = True
            requests = self._open.pop(id, [])
        for request in requests:
            request.cancel()
        self.jobs.cancel(id)

    def close(self) -> None:
        """End everything."""
        self.engine.close()

    # ------------------------------------------------------------ texts

    def _write(self, id: int, question: Mapping[str, Any], send: Send) -> None:
        ids = self._fitting(question)
        room = self.model.network.config.max_positions - len(ids)
        asked = question.get("max_new_tokens") or min(room, question.get("if_not_said", room))
        known = self.model.network.config.vocab_size
        odd = next((id for id in question.get("bias") or {} if id >= known), None)
        if odd is not None:
            raise DataError(
                "E304", "logit_bias", "no such token", expected=f"0 to {known - 1}", got=odd
            )
        count = question.get("n") or 1
        given = {key: question[key] for key in SETTINGS if question.get(key) is not None}
        given |= {"max_new_tokens": asked, "seed": question.get("seed") or 0}
        settings = build(Generation, given, "request")
        is_chat = question["do"] == "chat"
        ends = self.model.ends_of(ids if is_chat else question["prompt"])
        left = [count]
        guides = self._guides(question.get("format"), count)
        answers = []
        before = [] if is_chat else ids  # a conversation's answer is a beginning
        for index in range(count):
            texts = _Answer(
                index, bool(question.get("whole")), send,
                self.model.tokenizer.stream(after=before),
                HoldBack(question.get("stop") or ()), question.get("logprobs"),
                names_end=question["do"] == "complete",
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
        with self._one_grammar:
            if self._grammars is None:
                self._grammars = Grammars(self.model.tokenizer, self.model._turn_ends())
        return [self._grammars.guide(wanted["kind"], wanted["text"]) for _ in range(count)]

    def _check_size(self, where: str, size: int) -> None:
        """Refuse what cannot fit before its tokens are counted."""
        room = self.model.network.config.max_positions
        if size > self.jobs.most_characters:
            raise DataError(
                "E312", where, "longer than the model's context", expected=f"at most {room} tokens",
                got=f"{size:,} characters",
            )  # fmt: skip

    def _fitting(self, question: Mapping[str, Any]) -> list[int]:
        """The ids of a prompt, where there is room for it and for what is asked.

        Raises:
            DataError: there is not, or an id is no token.
        """
        ids = self._prompt(question)
        room = self.model.network.config.max_positions
        asked = question.get("max_new_tokens")
        if len(ids) + (asked or 0) > room or (len(ids) == room and question["do"] != "echo"):
            wanted = f"{len(ids)} tokens of the prompt" + (f" and {asked} to come" if asked else "")
            raise DataError(
                "E312", "messages" if question["do"] == "chat" else "prompt",
                "longer than the model's context", expected=f"at most {room}", got=wanted,
            )  # fmt: skip
        return ids

    def _prompt(self, question: Mapping[str, Any]) -> list[int]:
        if question["do"] == "chat":
            self._check_size("messages", sum(len(each["content"]) for each in question["messages"]))
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
            if token in ends and not texts.names_end:
                return False
            whole = "" if token in ends else texts.decoder.feed(token)
            if texts.top is not None:
                row = chance_of(token, logits, texts.top, tokenizer)
                texts.kept.append(row | {"place": place_of(row["token"], whole, texts.place)})
            texts.place += len(whole)
            piece = texts.held.feed(whole)
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
                texts.send({"index": texts.index, "error": as_error(own)})
            else:
                rest = texts.decoder.finish(cut=reason == "length")
                texts.text += texts.held.feed(rest) + texts.held.finish()
                reused = texts.request.reused if texts.request is not None else 0
                texts.say(end=reason, reused=reused)
            left[0] -= 1
            if left[0] == 0:
                with self._lock:
                    self._open.pop(id, None)

        return end


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
