"""The exception tree, and the one line that a person sees when something is wrong.

Knows: exit statuses, error codes, how a message is put together. Knows nothing of who raises.

    YantaiError
    ├── UsageError       2  a flag, a key, a value                       E2xx
    ├── DataError        3  the user's rows and files                    E3xx
    ├── ModelFileError   4  weights, configs, tokenizers, templates      E4xx
    ├── StorageError     5  disks: full, read-only, broken               E5xx
    ├── NumericsError    6  NaN, infinity, a loss spike                  E6xx
    ├── Interrupted      7  a signal came; the work is saved             E7xx
    └── ResourceError    8  memory, a dead worker                        E8xx

A message reads `where: what; expected X, got Y; do Z`, where *where* is `file:line`, `file:byte`,
a tensor, or the path of a field. The command line prints it behind `error[E312]`, without a
traceback unless `--debug` is given, and exits with the status.
"""

import re
from collections.abc import Mapping
from typing import Any, Self

CODES: dict[str, str] = {
    "E201": "a value on the command line or in a recipe is not allowed",
    "E202": "an unknown flag, key or verb",
    "E203": "two settings contradict each other, or a setting can have no effect",
    "E204": "an output folder is in use or already holds a run",
    "E205": "a resumed run differs from the one that was saved",
    "E206": "a file or folder that was named does not exist",
    "E207": "an optional package is not installed",
    "E301": "a row is not valid JSON",
    "E302": "bytes that are not valid UTF-8",
    "E303": "a compressed file is damaged, truncated or expands without bound",
    "E304": "a field is missing, empty or of the wrong type",
    "E305": "no documents or tokens are left",
    "E306": "a source file changed while it was read",
    "E307": "a row with nothing to learn",
    "E308": "a row is larger than the limit",
    "E309": "a file of a kind that is not read",
    "E310": "rows in and rows out do not add up",
    "E311": "token shards are damaged or do not belong together",
    "E312": "a conversation that cannot be rendered",
    "E401": "a config.json that cannot be read or is out of range",
    "E402": "a model family that is not supported",
    "E403": "a tensor is missing, extra, duplicate or of the wrong shape",
    "E404": "a safetensors or GGUF file is damaged",
    "E405": "a tokenizer that cannot be read or does not belong to the model",
    "E406": "a pickle file, which is never opened",
    "E407": "a chat template that fails or passes its limits",
    "E408": "a checkpoint is damaged and no good one is left",
    "E409": "a hash in the chain from data to model does not hold",
    "E410": "a model answers otherwise than when it was trained",
    "E501": "a file could not be written",
    "E502": "no space left",
    "E503": "a file could not be read",
    "E601": "a loss, gradient, weight or logit is not finite",
    "E602": "the loss jumped and the policy is to stop",
    "E603": "a quantised model has lost more than was allowed",
    "E701": "interrupted; the state is saved",
    "E801": "not enough memory",
    "E802": "a worker process died",
    "E803": "the engine has failed or is closed",
    "E804": "too many requests are waiting",
    "E805": "a self-test found something that does not hold",
}

_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """A text that moves no cursor, colours nothing and turns no line round, for a terminal.

    Lines stay lines; other characters of control are spelled out as JSON does it, and so are
    halves of pairs.

    >>> plain("a\\x1b[31mRED\\n")
    'a\\\\u001b[31mRED\\n'
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


class YantaiError(Exception):
    """Anything that Yantai reports to a person; `str(error)` is the line they read.

    Args:
        code: a key of `CODES`, such as `"E304"`.
        where: the place, `file:line`, `file:byte`, a tensor or a field.
        what: what is wrong there, without a full stop.
        expected: what would have been right, if that helps.
        got: what was found instead.
        do: the next command or action.

    Attributes:
        report: what a verb found before it gave up, which `--json` prints all the same.

    >>> str(DataError("E304", "a.jsonl:3", "no field 'text'", got="'txt'", do="pass --text-field"))
    "a.jsonl:3: no field 'text'; got 'txt'; pass --text-field"
    """

    exit_status = 1

    def __init__(
        self,
        code: str,
        where: object,
        what: str,
        *,
        expected: object = None,
        got: object = None,
        do: str | None = None,
    ):
        assert code in CODES, f"unknown error code {code}"
        assert code[1] == str(self.exit_status), f"{code} is not a {type(self).__name__}"
        self.code = code
        self.where, self.what = plain(str(where)), plain(what)
        self.expected = expected
        self.got = got
        self.do = do
        self.report: dict[str, Any] | None = None
        super().__init__(self._line())

    def with_report(self, report: dict[str, Any]) -> Self:
        """The same error, with what was found."""
        self.report = report
        return self

    def _line(self) -> str:
        comparison = [
            f"{name} {value}"
            for name, value in (("expected", self.expected), ("got", self.got))
            if value is not None
        ]
        parts = [f"{self.where}: {self.what}", ", ".join(comparison), self.do or ""]
        line = "; ".join(part for part in parts if part)
        return plain(line).replace("\n", " ")

    def __reduce__(self):
        return _rebuild, (
            type(self),
            self.code,
            self.where,
            self.what,
            self.expected,
            self.got,
            self.do,
        )

    def table(self) -> dict[str, str | None]:
        """For another process, which makes the same of it with `error_of`."""
        said = {"expected": self.expected, "got": self.got, "do": self.do}
        texts = {name: None if each is None else str(each) for name, each in said.items()}
        return {"code": self.code, "where": self.where, "what": self.what} | texts


def error_of(table: Mapping[str, Any]) -> YantaiError:
    """What `YantaiError.table` was made of.

    >>> error_of(UsageError("E201", "n", "too large", got=5).table())
    UsageError('n: too large; got 5')
    """
    kinds = {str(kind.exit_status): kind for kind in YantaiError.__subclasses__()}
    return kinds[table["code"][1]](**table)


def _rebuild(kind, code, where, what, expected, got, do):
    return kind(code, where, what, expected=expected, got=got, do=do)


class UsageError(YantaiError, ValueError):
    """A flag, key or argument is wrong (exit 2)."""

    exit_status = 2


class DataError(YantaiError):
    """The user's data is wrong (exit 3)."""

    exit_status = 3


class ModelFileError(YantaiError):
    """A model file is wrong or unsafe (exit 4)."""

    exit_status = 4


class StorageError(YantaiError):
    """A disk refused (exit 5)."""

    exit_status = 5


class NumericsError(YantaiError):
    """A number is not finite, or ran away (exit 6)."""

    exit_status = 6


class Interrupted(YantaiError):  # noqa: N818 - an interruption is no error
    """A signal came and the state was saved (exit 7)."""

    exit_status = 7


class ResourceError(YantaiError):
    """Memory ran out or a worker died (exit 8)."""

    exit_status = 8
