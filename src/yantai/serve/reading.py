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
LONGEST_NAME = 200
"""Of a field, as it is told."""
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
        what = str(error).replace("the row", "the body").replace("inside the file", "before it")
        said = what if error.code == "E304" else f"the body is not JSON: {what}"
        raise ApiError(400, said, param=error.field, code="invalid_json") from error
    except UnicodeDecodeError as error:
        what = f"the body is not UTF-8: byte 0x{body[error.start]:02x} at {error.start + 1:,}"
        raise ApiError(400, what, code="invalid_json") from error
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
    first, forms = _first(error.errors(include_url=False, include_input=False))
    where, path = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(where, str(path[-1]), shape if len(path) == 1 else None)
    if forms:
        said, code = "should be " + " or ".join(forms), KIND
    elif first["type"] in PLAINER:
        plain, code = PLAINER[first["type"]]
        if first.get("ctx", {}).get("max_length") == 0:
            plain, code = PLAINER["none_required"]
        limits = {name: f"{each:g}" if isinstance(each, float) else each
                  for name, each in first.get("ctx", {}).items()}  # fmt: skip
        said = plain.format(**limits)
    else:
        said, code = first["msg"].removeprefix("Value error, "), INVALID
    if not where and (name := said.split(" ")[0]) in shape.model_fields:
        return ApiError(400, said, param=name, code=code)
    return ApiError(400, f"{where}: {said}" if where else said, param=where or None, code=code)


def _first(errors: list[Any]) -> tuple[Any, list[str]]:
    """The first mistake, and the forms that its field may have where it has none of them.

    Of a field with several forms each has mistakes of its own: those deep inside of one form tell
    that this one was meant.
    """
    first, forms = errors[0], []
    where, path = _place(first["loc"])
    if first["type"] not in FORMS:
        return first, []
    for each in errors:
        place, inner = _place(each["loc"])
        if len(inner) > len(path) and inner[: len(path)] == path:
            return each, [FORMS[each["type"]]] if each["type"] in FORMS else []
        if place == where and each["type"] in FORMS:
            forms.append(FORMS[each["type"]])
    return first, list(dict.fromkeys(forms))


def _place(loc: tuple[Any, ...]) -> tuple[str, list[Any]]:
    """A field as a client writes it, `messages[0].content`, and its parts."""
    path = [part for part in loc if part not in KINDS and "[" not in str(part)]
    where = ""
    for part in path:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    return where[:LONGEST_NAME], path


def _unknown(where: str, name: str, shape: type[Shape] | None) -> ApiError:
    """A field that nobody reads; a shape has names that may be meant."""
    guess = nearest(name, list(shape.model_fields)) if shape is not None else None
    said = "unknown field" + (f", did you mean {guess!r}?" if guess else "")
    where = where[:LONGEST_NAME]
    return ApiError(400, f"{where}: {said}", param=where, code="unknown_parameter")


MISSING, KIND, INVALID = "missing_required_parameter", "invalid_type", "invalid_value"
FORMS = {
    "string_type": "a text", "int_type": "a whole number", "float_type": "a number",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "an object",
    "model_type": "an object", "model_attributes_type": "an object",
}  # fmt: skip
"""What a field should be, by pydantic's types of error."""
PLAINER = {
    "missing": ("is missing", MISSING),
    "none_required": ("is not supported here", INVALID),
    "literal_error": ("should be {expected}", INVALID),
    "finite_number": ("should be a finite number", INVALID),
    "greater_than": ("should be more than {gt}", INVALID),
    "greater_than_equal": ("should be at least {ge}", INVALID),
    "less_than": ("should be less than {lt}", INVALID),
    "less_than_equal": ("should be at most {le}", INVALID),
    "string_too_long": ("should have at most {max_length} characters", INVALID),
    "too_short": ("should have at least {min_length} of them", INVALID),
    "too_long": ("should have at most {max_length} of them", INVALID),
}
"""What is wrong in words of ours, and the code for it, by pydantic's types of error."""
