"""Bodies of requests → requests, and what is wrong with a body in words of this house.

Knows: bytes, JSON, and the shapes of `schema.py`. The first mistake is told with its field.
"""

import asyncio
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from yantai.base.config import nearest
from yantai.serve.schema import ApiError, Shape
from yantai.serve.texture import too_many
from yantai.text.reading_json import BadRow, parse_object

AT_ONCE_BYTES = 1 << 16
"""Of a body that is read in a few milliseconds, while nobody else is served."""
KINDS = ("str", "int", "float", "bool", "Text")
"""In pydantic's paths: which form of a field was tried."""
NOT_HERE = ("tools", "tool_choice", "functions", "function_call", "audio", "web_search_options",
            "prediction", "reasoning_effort", "verbosity")  # fmt: skip
"""What OpenAI has and we do not: asked for, it is an error that says so."""


def read_request(body: bytes, shape: type[Shape]) -> Any:
    """The request in a body.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    if (much := too_many(body)) is not None:
        raise ApiError(400, f"the body has {much}", code="body_too_complex")
    try:
        table = parse_object(body.decode("utf-8"), whole=True)
    except BadRow as error:
        what = str(error).replace("the row", "the body")
        said = what if error.code == "E304" else f"the body is not JSON: {what}"
        raise ApiError(400, said, param=error.field, code="invalid_json") from error
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: {error}", code="invalid_json") from error
    for name in NOT_HERE:
        if table.get(name) in (None, [], "none", "auto") and name in table:
            del table[name]
        elif name in table:
            raise ApiError(
                400, f"{name} is not supported here", param=name, code="unsupported_parameter"
            )
    for name in table:
        if name not in shape.model_fields:  # before anybody looks at a thousand of them
            raise _unknown(name, name, shape)
    try:
        return shape.model_validate(table)
    except ValidationError as error:
        raise _told(error, shape) from error
    except RecursionError as error:
        raise ApiError(400, "nested too deeply") from error


async def asked_of(request: Request, shape: type[Shape]) -> Any:
    """The request in the body of a request of HTTP; a long one is read beside what others ask.

    Raises:
        ApiError: as of `read_request`.
    """
    body = await request.body()
    if len(body) > AT_ONCE_BYTES:
        return await asyncio.to_thread(read_request, body, shape)
    return read_request(body, shape)


def _told(error: ValidationError, shape: type[Shape]) -> ApiError:
    """The first mistake, with the path of its field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [part for part in first["loc"] if part not in KINDS and "[" not in str(part)]
    where = ""
    for part in path:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if first["type"] == "extra_forbidden":
        return _unknown(where, str(path[-1]), shape)
    said = PLAINER.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if not where and (name := said.split(" ")[0]) in shape.model_fields:
        return ApiError(400, said, param=name)
    return ApiError(400, f"{where}: {said}" if where else said, param=where or None)


PLAINER = {
    "none_required": "is not supported here", "model_type": "should be an object",
    "model_attributes_type": "should be an object", "dict_type": "should be an object",
}  # fmt: skip
"""Than pydantic says it, by its types of error."""


def _unknown(where: str, name: str, shape: type[Shape]) -> ApiError:
    """A field that nobody reads."""
    guess = nearest(name, list(shape.model_fields))
    said = "unknown field" + (f", did you mean {guess!r}?" if guess else "")
    where = where[:200]
    return ApiError(400, f"{where}: {said}", param=where, code="unknown_parameter")
