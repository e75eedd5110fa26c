"""What clients may ask, in OpenAI's shapes: names, ranges, and what of theirs is not supported.

Knows: JSON of requests. Nothing here needs a model; whatever is wrong is said with the name of the
field before anybody has tokenised a character. Neutral values of what we do not do pass, because
ordinary clients send them.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    field_validator,
    model_validator,
)

MOST_STOPS, LONGEST_STOP = 16, 200
MOST_BIASES = 1024
MOST_MESSAGES = 4096
MOST_INPUTS = 256
MOST_CHOICES = 16
MOST_IDS = 200_000

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]


def _texts(value: Any) -> Any:
    """A text or several, as texts or ids; a list is looked at no further than its first fault."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > MOST_IDS:
        raise ValueError(f"a text or a list of at most {MOST_IDS:,} texts, ids, or lists of ids")
    kind = type(value[0]) if value else str
    if kind not in (str, int, list):
        raise ValueError("neither texts nor ids")
    for place, each in enumerate(value):
        if type(each) is not kind:
            raise ValueError(f"entry {place} is of another kind than the first")
        if kind is list and (len(each) > MOST_IDS or not set(map(type, each)) <= {int}):
            raise ValueError(f"entry {place} is no list of ids")
        if kind is list and not each:
            raise ValueError(f"entry {place} is empty")
    return value


_SAID = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer"}}
Texts = Annotated[
    Any,
    BeforeValidator(_texts),
    WithJsonSchema({
        "anyOf": [_SAID, {"type": "array", "items": _SAID}, _IDS, {"type": "array", "items": _IDS}]
    }),
]  # fmt: skip
"""What is continued or embedded."""


class ApiError(Exception):
    """What a client is told, in OpenAI's form.

    Args:
        status: of HTTP.
        message: what is wrong.
        param: the field, if it is one.
        code: a word for programs.
        kind: OpenAI's `type`.
        wait: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        wait: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind, self.wait = kind, wait

    def body(self) -> dict[str, Any]:
        """The JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


class Shape(BaseModel):
    """What every request is: nothing unknown in it, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())


class Text(Shape):
    """A part of a message; others than text are not supported."""

    type: Literal["text"]
    text: str


class Said(Shape):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Text]
    name: str | None = Field(None, max_length=64)
    # what OpenAI's own answers carry, and clients send back as they got it
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)

    @field_validator("content", mode="before")
    @classmethod
    def _text_alone(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise ValueError(f"{kind[:40]!r} is not supported; the model reads text alone")
        return value

    def plain(self) -> dict[str, str]:
        """As a chat template wants it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Shape):
    """`stream_options`."""

    include_usage: Flag = False
    include_obfuscation: Flag = False


class JsonSchema(Shape):
    """`response_format.json_schema`."""

    name: str = Field(max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: Flag | None = None
    description: str | None = None


class ResponseFormat(Shape):
    """`response_format`; `regex` is ours."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    regex: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _has_what_it_says(self) -> "ResponseFormat":
        for name in ("json_schema", "regex"):
            given = getattr(self, name) is not None
            if self.type == name and not given:
                raise ValueError(f"type {name!r} needs {name}, which is missing")
            if given and self.type != name:
                raise ValueError(f"type {self.type!r} and {name} do not go together")
        return self


class Sampling(Shape):
    """What both kinds of completion take."""

    model: str | None = Field(None, max_length=200)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=1, le=1_000_000)
    min_p: Number | None = Field(None, ge=0, le=1)
    repetition_penalty: Number | None = Field(None, ge=0.01, le=10)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    n: Whole | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    max_tokens: Whole | None = Field(None, ge=1, le=1_000_000)
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, Number] | None = Field(None, max_length=MOST_BIASES)
    response_format: ResponseFormat | None = None
    user: str | None = Field(None, max_length=1000)

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} texts")
        if any(not 0 < len(text) <= LONGEST_STOP for text in texts):
            raise ValueError(f"each of 1 to {LONGEST_STOP} characters")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key, bias in (value or {}).items():
            if not key.isascii() or not key.isdigit() or len(key) > 9:
                raise ValueError(f"{key[:20]!r} is no token id")
            if not -100 <= bias <= 100:
                raise ValueError("a bias is between -100 and 100")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """As a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: list[Said] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: Whole | None = Field(None, ge=1, le=1_000_000)
    logprobs: Flag | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    store: Flag | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    parallel_tool_calls: Flag | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = Field(None, max_length=1000)
    safety_identifier: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def limit(self) -> int | None:
        """New tokens at most."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: Texts
    max_tokens: Whole | None = Field(None, ge=0, le=1_000_000)
    echo: Flag | None = None
    logprobs: Whole | None = Field(None, ge=0, le=5)
    best_of: Whole | None = Field(None, ge=1, le=MOST_CHOICES)
    suffix: str | None = None

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("is not supported here")
        return value

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("empty")
        if (
            isinstance(value, list)
            and isinstance(value[0], str | list)
            and len(value) > MOST_INPUTS
        ):
            raise ValueError(f"at most {MOST_INPUTS} prompts")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of other than n is not supported")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class EmbeddingRequest(Shape):
    """`POST /v1/embeddings`."""

    model: str | None = Field(None, max_length=200)
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    user: str | None = Field(None, max_length=1000)

    @field_validator("input")
    @classmethod
    def _few(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if not texts or any(text in ("", []) for text in texts):
            raise ValueError("empty")
        if isinstance(texts[0], str | list) and len(texts) > MOST_INPUTS:
            raise ValueError(f"at most {MOST_INPUTS} texts")
        return value


class TaskRequest(Shape):
    """`POST /v1/classify` and the other jobs: texts in, answers in the same order out."""

    model: str | None = Field(None, max_length=200)
    input: str | list[str]
    question: str | list[str] | None = None
    truncate: Flag | None = Field(
        None, description="cut texts that are longer than the model reads"
    )

    @field_validator("input", "question")
    @classmethod
    def _few(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value
        if texts is not None and (
            not texts or len(texts) > MOST_INPUTS or not all(map(str.strip, texts))
        ):
            raise ValueError(f"1 to {MOST_INPUTS} texts, none of them empty")
        return value


def api_error(error: dict[str, Any]) -> ApiError:
    """What a desk says went wrong, for a client."""
    status = error["status"]
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    return ApiError(
        status, error["message"], param=error.get("param"), code=error.get("code"),
        kind=kinds.get(status, "invalid_request_error"), wait=1 if status in (429, 503) else None,
    )  # fmt: skip


UNAVAILABLE = "unavailable"


def unavailable(what: str) -> ApiError:
    """Nothing is answered now; another server may."""
    return ApiError(503, f"the server {what}", code=UNAVAILABLE, kind="server_error", wait=5)
