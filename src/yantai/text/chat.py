"""Messages → ids and the mask of what is learned: one renderer for training, evaluation, serving.

Knows: templates in Jinja, control tokens, spans. Knows nothing of models. No torch.

How a message is kept from forging a control token:

1. Wherever a message spells a control token, or begins or ends with a part of one, a guard
   character that occurs nowhere in the input is put inside.
2. The template is rendered, in a sandbox with limits.
3. The result is cut at the control tokens, which now can only be the template's own; they become
   ids. What lies between is text: the guards are taken out and it is encoded as text.

What is learned is what the template puts between `{% generation %}` and `{% endgeneration %}`. Most
templates of others have no such marks: then it is what stands behind the prompt of each assistant's
turn, up to its last control token, if prompts are how the conversation goes on. Text is cut at
those borders too, so a prompt's ids are always a prefix of the training ids.

When a conversation outgrows the context, `fit` drops the oldest exchanges, never the system
message and never the last message; if those alone do not fit, it is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from yantai.base.errors import DataError, ModelFileError
from yantai.text.sandbox import MAX_OUTPUT_CHARACTERS, RefusalError, Sandbox, within
from yantai.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
MAX_TEMPLATE_CHARACTERS = 100_000

CHATML = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

Message = dict[str, str]
Signs = tuple[str, str, str]
"""Characters that no message has: the guard, and the two round what is learned."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it.

    Attributes:
        ids: token ids.
        learn: for each id, whether the model is to learn to produce it.
        text: the rendered text, control tokens spelled out.
    """

    ids: list[int]
    learn: list[bool]
    text: str


class ChatFormat:
    """The renderer of one tokenizer and its template.

    Raises:
        ModelFileError: the template is too long or is not Jinja; the message has its line.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None = None):
        self.tokenizer = tokenizer
        self.template = template or tokenizer.chat_template or CHATML
        if len(self.template) > MAX_TEMPLATE_CHARACTERS:
            raise ModelFileError(
                "E407", "chat_template", "too long", expected=MAX_TEMPLATE_CHARACTERS
            )
        self._environment = Sandbox()
        try:
            self._compiled = self._environment.from_string(self.template)
        except TemplateSyntaxError as error:
            raise ModelFileError("E407", f"chat_template:{error.lineno}", str(error)) from error
        controls = sorted(tokenizer.control, key=len, reverse=True)
        self._controls = re.compile("|".join(re.escape(name) for name in controls) or r"(?!)")

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself says what is learned."""
        return re.search(r"\{%-?\s*generation\b", self.template) is not None

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> Rendered:
        """Render a conversation.

        Args:
            messages: tables with `role` and `content`.
            reply: end with the beginning of an assistant's turn, for it to be continued.

        Raises:
            DataError: a message is malformed; its index is named.
            ModelFileError: the template fails or passes a limit; its line is named.
        """
        check_messages(messages)
        signs = _unused_characters(self.template, messages)
        return self._as_ids(self._run(self._guarded(messages, signs[0]), reply, signs[1:]), signs)

    def _as_ids(self, text: str, signs: Signs) -> Rendered:
        guard, start, stop = signs
        ids: list[int] = []
        learn: list[bool] = []
        learning = False
        for piece in re.split(f"({start}|{stop})", text):
            if piece in (start, stop):
                learning = piece == start
                continue
            new = self._encode(piece, guard)
            ids += new
            learn += [learning] * len(new)
        clean = text.translate({ord(mark): None for mark in (guard, start, stop)})
        return Rendered(ids, learn, clean)

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of a text that was rendered before, whoever wrote what in it."""
        return self._encode(text, "")

    def _guarded(self, messages: Sequence[Message], guard: str) -> list[Message]:
        return [
            message | {"content": self._guard(message["content"], guard)} for message in messages
        ]

    def _guard(self, content: str, guard: str) -> str:
        content = self._controls.sub(lambda found: found[0][0] + guard + found[0][1:], content)
        for name in self.tokenizer.control:
            for length in range(len(name) - 1, 0, -1):
                if content.endswith(name[:length]):
                    content += guard
                if content.startswith(name[-length:]):
                    content = guard + content
        return content

    def _encode(self, text: str, guard: str) -> list[int]:
        ids: list[int] = []
        position = 0
        for found in self._controls.finditer(text):
            ids += self._encode_text(text[position : found.start()], guard)
            ids.append(self.tokenizer.control[found[0]])
            position = found.end()
        return ids + self._encode_text(text[position:], guard)

    def _encode_text(self, text: str, guard: str) -> list[int]:
        text = text.replace(guard, "")
        return self.tokenizer.encode(text) if text else []

    def _run(self, messages: list[Message], reply: bool, marks: tuple[str, str]) -> str:
        """The text of a conversation.

        Raises:
            ModelFileError: the template fails; its line and the message it failed at are named.
        """
        try:
            return self._filled(messages, reply, marks)
        except Exception as error:  # a template can raise anything
            what = str(error) or repr(error)
            if isinstance(error, TemplateError) and not isinstance(error, SecurityError):
                what += f", at messages[{self._fails_at(messages, marks)}]"
            raise ModelFileError("E407", f"chat_template{_template_line(error)}", what) from error

    def _fails_at(self, messages: list[Message], marks: tuple[str, str]) -> int:
        """The first message with which it fails."""
        for place in range(len(messages) - 1):
            try:
                self._filled(messages[: place + 1], False, marks)
            except Exception:  # whatever it is, here it is
                return place
        return len(messages) - 1

    def _filled(self, messages: list[Message], reply: bool, marks: tuple[str, str]) -> str:
        names = {
            key: value.get("content") if isinstance(value, dict) else value
            for key, value in self.tokenizer.settings.items()
            if key.endswith("_token")
        }
        parts: list[str] = []
        size, given = 0, sum(len(message["content"]) for message in messages)
        with within(given, marks):
            for part in self._compiled.generate(
                messages=messages, add_generation_prompt=reply, **names
            ):
                size += len(part)
                if size > MAX_OUTPUT_CHARACTERS:
                    raise SecurityError(f"the output passes {MAX_OUTPUT_CHARACTERS} characters")
                parts.append(part)
        return "".join(parts)

    def training_row(self, messages: Sequence[Message], where: object = "messages") -> Rendered:
        """Render for training.

        Raises:
            ModelFileError: the template does not mark what is learned, and its prompts do not say.
            DataError: nothing in the row is learned, or the template refuses such a row.
        """
        try:
            rendered = (
                self.render(messages) if self.marks_generation else self._by_prompts(messages)
            )
        except ModelFileError as error:
            if not isinstance(error.__cause__, RefusalError):
                raise
            raise DataError(
                "E312", where, f"the chat template refuses it: {error.what}",
                do="mend the row, or pass --on-bad-row quarantine",
            ) from error  # fmt: skip
        if not any(rendered.learn):
            raise DataError("E307", where, "nothing to learn: no assistant message with content")
        return rendered

    def _by_prompts(self, messages: Sequence[Message]) -> Rendered:
        """A conversation whose assistant's words are found as what follows their prompts."""
        check_messages(messages)
        signs = _unused_characters(self.template, messages)
        guarded, marks = self._guarded(messages, signs[0]), signs[1:]
        whole = self._run(guarded, False, marks)
        text, behind = "", 0
        for place, message in enumerate(guarded):
            if message["role"] != "assistant":
                continue
            prompt = self._run(guarded[:place], True, marks)
            said = self._run(guarded[: place + 1], False, marks)
            if not (whole.startswith(said) and said.startswith(prompt)) or len(prompt) < behind:
                raise ModelFileError(
                    "E407", "chat_template", "does not mark what is learned",
                    expected="{% generation %} … {% endgeneration %} round the assistant's words, "
                    "or a conversation that begins with the prompts of its turns",
                )  # fmt: skip
            ends = [found.end() for found in self._controls.finditer(said, len(prompt))]
            end = ends[-1] if ends else len(said)
            text += whole[behind : len(prompt)] + marks[0] + whole[len(prompt) : end] + marks[1]
            behind = end
        return self._as_ids(text + whole[behind:], signs)

    def fit(self, messages: Sequence[Message], budget: int) -> tuple[list[Message], Rendered]:
        """The conversation as a prompt of at most `budget` tokens, oldest exchanges dropped.

        Raises:
            DataError: the system message and the last message alone are too long.
        """
        kept = list(messages)
        first = 1 if kept and kept[0]["role"] == "system" else 0
        while True:
            rendered = self.render(kept, reply=True)
            if len(rendered.ids) <= budget:
                return kept, rendered
            if len(kept) - first <= 1:
                raise DataError(
                    "E312",
                    f"messages[{len(messages) - 1}]",
                    "too long for the model's context",
                    expected=f"at most {budget} tokens",
                    got=len(rendered.ids),
                    do="shorten it",
                )
            del kept[first]
            while len(kept) - first > 1 and kept[first]["role"] != "user":
                del kept[first]


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what is no conversation.

    Raises:
        DataError: naming the index of the message and the field.
    """
    if not messages:
        raise DataError("E312", "messages", "empty", expected="at least one message")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise DataError("E312", where, "not a table", got=type(message).__name__)
        if message.get("role") not in ROLES:
            raise DataError(
                "E312",
                f"{where}.role",
                "unknown",
                expected=", ".join(ROLES),
                got=message.get("role"),
            )
        if not isinstance(message.get("content"), str):
            got = type(message.get("content")).__name__
            raise DataError("E312", f"{where}.content", "not a text", got=got)
        if message["role"] == "system" and index:
            raise DataError("E312", where, "a system message stands first or not at all")


def _unused_characters(template: str, messages: Sequence[Message]) -> Signs:
    used = set(template).union(*(message["content"] for message in messages))
    free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
    try:
        return next(free), next(free), next(free)
    except StopIteration:
        raise DataError("E312", "messages", "every private-use character is in use") from None


def _template_line(error: Exception) -> str:
    trace = error.__traceback__
    line = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
