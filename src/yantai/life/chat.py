"""A chat in the terminal.

Knows: lines in, pieces of text out, the conversation so far. What happens when it outgrows the
context is the policy of `text/chat.py`.
"""

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from typing import Any

from yantai.base.config import build
from yantai.base.errors import UsageError, YantaiError
from yantai.base.log import say
from yantai.infer.engine import Engine
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.infer.settings import Generation
from yantai.life.settings import Chat

PROMPT = "› "

HELP = (
    "/reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer; twice at the prompt it ends."
)
AGAIN = "(/exit, Ctrl-D or another Ctrl-C ends the chat)"
ASKED = ("max_new_tokens", "temperature", "top_p", "seed")
COMMAND = re.compile("/[a-z]+")
"""A line of such a word alone is no message."""


def chat(settings: Chat, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai chat`: returns the messages at the end.

    Raises:
        UsageError: the settings contradict each other, or leave no room for a message.
    """
    asked = {name: getattr(settings, name) for name in ASKED}
    build(Generation, asked, "chat")
    model = load(settings.model, dtype=settings.dtype, device=settings.device, probes=True)
    room = model.network.config.max_positions
    if settings.max_new_tokens is not None and settings.max_new_tokens >= room:
        raise UsageError(
            "E201", "chat:max_new_tokens", "leaves no room for a message",
            expected=f"under {room}, the model's context", got=settings.max_new_tokens,
        )  # fmt: skip
    if sys.stdin.isatty():
        say(f"Type a message. {HELP}")
    return {"messages": converse(model, _lines(), emit, system=settings.system, settings=asked)}


def _lines() -> Iterable[str]:
    """What is typed or piped; a second Ctrl-C at the prompt ends it, the first says so."""
    interactive = sys.stdin.isatty()
    ending = not interactive
    while True:
        try:
            if interactive:
                sys.stderr.write(PROMPT)
                sys.stderr.flush()
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            if ending:
                return
            ending = True
            say(f"\n{AGAIN}")
            continue
        if not line:
            return
        ending = not interactive
        yield line.rstrip("\r\n")


def converse(
    model: LanguageModel,
    lines: Iterable[str],
    emit: Callable[[str], None],
    *,
    system: str | None = None,
    settings: dict[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Answer line after line; an error is told and the conversation goes on."""
    start = [{"role": "system", "content": system}] if system else []
    # it remembers the conversation, so that no turn is read twice
    engine = Engine(model.network, slots=1) if model.shape == "decoder" else None
    with closing(engine) if engine is not None else nullcontext():
        return _conversation(model, engine, lines, emit, start, settings or {})


def _conversation(
    model: LanguageModel,
    engine: Engine | None,
    lines: Iterable[str],
    emit: Callable[[str], None],
    start: list[dict[str, str]],
    settings: dict[str, Any],
) -> list[dict[str, str]]:
    messages = list(start)
    for line in lines:
        if line.strip() in ("/exit", "/quit"):
            break
        if line.strip() == "/reset":
            messages = list(start)
            say("(a new conversation)")
            continue
        if not line.strip():
            continue
        if COMMAND.fullmatch(line.strip()):
            say(HELP if line.strip() == "/help" else f"no command {line.strip()}. {HELP}")
            continue
        messages.append({"role": "user", "content": line})
        reply = ""
        try:
            for piece in model.chat(messages, stream=True, engine=engine, **settings):
                emit(piece)
                reply += piece
        except KeyboardInterrupt:
            say(" (stopped)")
        except YantaiError as error:
            say(f"error[{error.code}] {error}")
            messages.pop()
            continue
        emit("\n")
        messages.append({"role": "assistant", "content": reply})
    return messages
