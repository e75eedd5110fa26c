"""Jinja templates of strangers, run within limits of steps, memory and time.

Knows: what in a template can be made large or long. Each loop and macro begins its body with a
count (of the text that stands in it, too). What comes into being is weighed, before it is built
where its size can be known: texts that are joined, what is shown, lists and tables that a template
writes down, these with all that they hold. The budget belongs to one rendering.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_CHARACTERS = 8_000_000
MAX_RANGE = 10_000
STEPS = 200_000
CHARACTERS, COPIES = 16_000_000, 64
"""A template may make so many characters in all, and so many out of one that it was given."""
BOX, LEAF = 64, 16
"""What a list or an entry of a table, and what is no text, weighs in characters."""
SECONDS = 0.8
"""Of this thread's processor time, so that a busy machine refuses nothing."""

_UNSAFE = ("format", "format_map", "center", "ljust", "rjust", "zfill", "expandtabs", "encode")
_UNSAFE += ("to_bytes", "maketrans", "translate")
_FILTERS = ("attr", "batch", "center", "format", "indent", "pprint", "random", "slice")
_FILTERS += ("urlize", "wordwrap", "xmlattr")


_OF_TEXTS = (
    "capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "striptags", "title",
    "tojson", "trim", "truncate", "upper", "urlencode", "wordcount",
)  # fmt: skip
"""Filters that write a list or a table out, if they get one."""


@dataclass
class Budget:
    """What is left to one rendering.

    Attributes:
        longest: characters of one text.
        characters: that may still come into being.
        marks: what is put before and behind a text that is learned.
        steps: loops and macros that may still begin.
    """

    longest: int
    characters: int
    marks: tuple[str, str] = ("", "")
    steps: int = STEPS
    _began: float = field(default_factory=time.thread_time)

    def step(self, characters: int) -> None:
        """Count the beginning of a loop's or a macro's body, and the text that stands in it."""
        self.steps -= 1
        self.weigh(characters)
        if self.steps < 0:
            raise SecurityError(f"more than {STEPS:,} steps")
        if not self.steps % 64:
            self._check_time()

    def weigh(self, characters: int) -> None:
        """Count a text of this length; a long one asks for the time, too."""
        self.characters -= characters
        if self.characters < 0 or characters > self.longest:
            raise SecurityError("the template makes too much text out of what it was given")
        if characters > 10_000:
            self._check_time()

    def _check_time(self) -> None:
        if time.thread_time() - self._began > SECONDS:
            raise SecurityError(f"more than {SECONDS} s")


_BUDGET: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def within(characters: int, marks: tuple[str, str]) -> Generator[Budget]:
    """Render with a budget for so many characters of input."""
    longest = MAX_OUTPUT_CHARACTERS + 4 * characters
    budget = Budget(longest, CHARACTERS + COPIES * characters, marks)
    token = _BUDGET.set(budget)
    try:
        yield budget
    finally:
        _BUDGET.reset(token)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` puts a mark before and behind what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - the library's way

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller) -> str:
        start, stop = _BUDGET.get().marks
        return f"{start}{caller()}{stop}"


class _Coder(CodeGenerator):
    """Texts that `~` joins, and lists and tables that are written down, go through `Sandbox`."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        """As the library's, through the environment."""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Any) -> None:  # noqa: N802
        """The same."""
        self._weighed(super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:  # noqa: N802
        """The same, but for what is assigned to."""
        if node.ctx == "store":
            super().visit_Tuple(node, frame)
        else:
            self._weighed(super().visit_Tuple, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:  # noqa: N802
        """The same."""
        self._weighed(super().visit_Dict, node, frame)

    def _weighed(self, visit: Callable[[Any, Any], None], node: nodes.Node, frame: Any) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """No attribute escapes, no format strings, and nothing that makes much out of little."""

    code_generator_class = _Coder
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_weigh,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        names: dict[str, Any] = self.globals
        for name in ("cycler", "joiner", "lipsum"):
            names.pop(name, None)
        names.update(range=_short_range, raise_exception=_raise, strftime_now=_now)
        for name in _FILTERS:
            self.filters.pop(name, None)
        self.filters["tojson"] = _to_json
        self.filters["replace"] = _replaced
        self.filters["join"] = _joined
        self.filters["sum"] = _sum
        for name, function in self.filters.items():
            self.filters[name] = _weighed(function, of_texts=name in _OF_TEXTS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for node in template.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
            data = (each for part in node.body for each in part.find_all(nodes.TemplateData))
            here = sum(len(each.data) for each in data)
            step = nodes.EnvironmentAttribute("step")
            count = nodes.ExprStmt(nodes.Call(step, [nodes.Const(here)], [], None, None))
            node.body.insert(0, count.set_lineno(node.lineno))
        return template

    def step(self, characters: int) -> None:
        """What every body begins with."""
        _BUDGET.get().step(characters)

    def weighed(self, value: Any) -> Any:
        """A list or a table that a template writes down."""
        return _weigh(value)

    def joined(self, parts: Iterable[Any]) -> str:
        """What `~` does."""
        return _joined(parts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """No format strings, and no paddings of a billion."""
        return attr not in _UNSAFE and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No sandboxed format either: a width of a billion is a billion characters."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Methods of texts that make longer ones are weighed before, all others behind."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _weighed(_replaced)(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join":
            return _weighed(_joined)(*args, owner)
        found = super().call(__context, __obj, *args, **kwargs)
        return _weigh(found) if isinstance(found, dict) else _weigh_outside(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers stay small, and texts are weighed."""
        if operator == "+":
            if hasattr(left, "__len__") and hasattr(right, "__len__"):
                _BUDGET.get().weigh(len(left) + len(right))
            return super().call_binop(context, operator, left, right)
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        small = numbers and abs(left) < 1e9 and abs(right) < (64 if operator == "**" else 1e9)
        if not small and operator == "*" and not numbers:
            text, times = (left, right) if isinstance(right, int) else (right, left)
            small = isinstance(times, int) and hasattr(text, "__len__")
            small = small and len(text) * times <= MAX_RANGE
        if not small:
            raise SecurityError(f"{left!r:.40} {operator} {right!r:.40} is not allowed")
        return _weigh_outside(super().call_binop(context, operator, left, right))


def _weigh_outside(value: Any) -> Any:
    """The same of a text or of a list alone, whose members were there before."""
    budget = _BUDGET.get(None)
    if budget is not None and isinstance(value, str | list | tuple):
        budget.weigh(len(value))
    return value


def _weigh(value: Any) -> Any:
    """The value, once its budget has paid for it; while a template is compiled there is none."""
    budget = _BUDGET.get(None)
    if budget is not None:
        _pay(budget, value, 0)
    return value


def _pay(budget: Budget, value: Any, depth: int) -> None:
    """For texts and all that lists and tables hold, as often as they hold it."""
    if isinstance(value, str):
        budget.weigh(len(value))
        return
    inner = getattr(value, "_Namespace__attrs", value)
    if depth > 50:
        raise SecurityError("lists in lists without end")
    if isinstance(inner, dict):
        budget.weigh(BOX * (1 + len(inner)))
        for key, each in inner.items():
            _pay(budget, key, depth + 1)
            _pay(budget, each, depth + 1)
    elif isinstance(inner, list | tuple | set | frozenset):
        budget.weigh(BOX + len(inner))
        for each in inner:
            _pay(budget, each, depth + 1)
    else:
        budget.weigh(LEAF)


def _weighed(function: Callable[..., Any], *, of_texts: bool = False) -> Callable[..., Any]:
    """A filter whose result counts; what the library has written on it stays on it."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            if of_texts and isinstance(value, dict | list | tuple):
                _weigh(value)  # the library writes it out first
        return _weigh_outside(function(*args, **kwargs))

    counted.__dict__.update(getattr(function, "__dict__", {}))
    return counted


def _replaced(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = (str(_weigh(each)) for each in (text, old, new))
    found = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    _BUDGET.get().weigh(max(0, len(text) + found * (len(new) - len(old))))
    return text.replace(old, new, -1 if count is None else count)


def _joined(parts: Iterable[Any], between: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        parts = [part[attribute] for part in parts]
    texts = [str(_weigh(part)) for part in parts]
    _BUDGET.get().weigh(len(str(_weigh(between))) * len(texts))
    return str(between).join(texts)


def _sum(values: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    if attribute is not None:
        values = [value[attribute] for value in values]
    numbers = [start, *values]
    if not all(isinstance(number, int | float) for number in numbers):
        raise SecurityError("a sum is of numbers")
    return sum(numbers)


def _short_range(*arguments: int) -> range:
    values = range(*arguments)
    if len(values) > MAX_RANGE:
        raise SecurityError(f"a range of {len(values)} passes the limit of {MAX_RANGE}")
    return values


def _now(form: str) -> str:
    return datetime.now().strftime(form)


class RefusalError(TemplateError):
    """What a template says of a conversation that it does not render."""


def _raise(message: str) -> None:
    raise RefusalError(message)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError(f"an indent of {indent} is not allowed")
    return json.dumps(value, ensure_ascii=False, indent=indent)
