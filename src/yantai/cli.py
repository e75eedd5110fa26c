"""The command line: verb → function, and nothing else.

Flags come from the verb's configuration model: name, type, default, help. A value comes from the
flag, else from the environment (`YANTAI_VERB_FLAG`), else from `--config FILE.yaml`, else from the
default. Results go to standard output (`--json`: one JSON object), everything else to standard
error. Verbs are imported when they are called, so `--help` is quick.
"""

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict, Env
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from yantai import __version__
from yantai.base.config import build, read_yaml
from yantai.base.errors import ResourceError, UsageError, YantaiError, plain


@dataclass(frozen=True)
class Verb:
    """A row of the table.

    Attributes:
        settings: `module:Class` of its configuration.
        function: `module:name`, called with the configuration and a function that shows text.
        positional: fields that need no flag.
        hidden: `module:NAME` of a set of fields that `--help` does not list.
    """

    settings: str
    function: str
    positional: tuple[str, ...] = ()
    hidden: str | None = None


VERBS: dict[str, Verb] = {
    "quickstart": Verb("yantai.life.settings:Quickstart", "yantai.life.quickstart:quickstart"),
    "tokenizer": Verb(
        "yantai.life.settings:TrainTokenizer", "yantai.life.verbs:tokenizer", ("documents",)
    ),
    "pretrain": Verb(
        "yantai.training.recipe:Pretrain",
        "yantai.life.verbs:pretrain",
        hidden="yantai.training.recipe:HIDDEN_FLAGS",
    ),
    "finetune": Verb(
        "yantai.training.recipe:Finetune",
        "yantai.life.finetune:finetune",
        ("model",),
        "yantai.training.recipe:HIDDEN_IN_FINETUNE",
    ),
    "tune": Verb("yantai.life.settings:Tune", "yantai.life.tune:tune", ("recipe",)),
    "generate": Verb(
        "yantai.life.settings:Generate", "yantai.life.verbs:generate", ("model", "prompt")
    ),
    "chat": Verb("yantai.life.settings:Chat", "yantai.life.chat:chat", ("model",)),
    "predict": Verb("yantai.life.settings:Predict", "yantai.life.predict:predict", ("model",)),
    "evaluate": Verb("yantai.life.settings:Evaluate", "yantai.life.verbs:evaluate", ("model",)),
    "quantize": Verb("yantai.life.settings:Quantize", "yantai.life.quantize:quantise", ("model",)),
    "export": Verb("yantai.life.settings:Export", "yantai.life.export:export", ("model",)),
    "serve": Verb("yantai.serve.settings:Serve", "yantai.serve.run:serve", ("models",)),
    "doctor": Verb("yantai.life.settings:Doctor", "yantai.life.doctor:doctor", ("what",)),
    "verify": Verb("yantai.life.settings:Verify", "yantai.life.verify:verify", ("folder",)),
    "selftest": Verb("yantai.life.selftest:Selftest", "yantai.life.verbs:selftest"),
}

HELP = """Own a language model for its whole life: raw text, tokenizer, training, scores, a chat.

Start with: yantai quickstart

Every flag --some-flag of a verb is also a key some_flag of its recipe and an environment variable
YANTAI_VERB_SOME_FLAG; the flag wins, then the environment, then --config FILE.yaml.
"""


def _find(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def _parameters(verb: Verb, model: type[BaseModel]) -> list[inspect.Parameter]:
    hidden = _find(verb.hidden) if verb.hidden else frozenset()
    found = []
    for name, field in model.model_fields.items():
        positional = name in verb.positional
        flag = f"--{(field.alias or name).replace('_', '-')}"
        note = Parameter(
            name=flag,
            help=field.description,
            show=name not in hidden,
            consume_multiple=True,
            negative="",
            show_env_var=False,
        )
        default = inspect.Parameter.empty
        if field.default is not PydanticUndefined:
            default = field.default
        kind = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if positional
            else inspect.Parameter.KEYWORD_ONLY
        )
        annotation = Annotated[field.annotation, note]  # ty: ignore[invalid-type-form]
        found.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
    # Python wants what has no default first
    found.sort(key=lambda item: (item.kind, item.default is not inspect.Parameter.empty))
    for name, kind, text in (
        ("config", Path | None, "settings from a YAML file, named like the flags"),
        ("json", bool, "print one JSON object on standard output"),
        ("debug", bool, "show tracebacks"),
    ):
        default = None if name == "config" else False
        note = Parameter(name=f"--{name}", help=text, negative="", show_env_var=False)
        annotation = Annotated[kind, note]
        found.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    return found


def _command(name: str, verb: Verb) -> Callable[..., Any]:
    model = _find(verb.settings)

    def run(*arguments: Any, **flags: Any) -> None:
        signature = inspect.signature(run)
        given = dict(signature.bind(*arguments, **flags).arguments)
        as_json = given.pop("json", False)
        given.pop("config", None)
        given.pop("debug", None)
        settings = build(model, given, name)
        emit = _silent if as_json else _emit
        try:
            result = _find(verb.function)(settings, emit)
        except YantaiError as error:
            if as_json and error.report is not None:
                _emit_json(error.report)
            raise
        if as_json:
            _emit_json(result)

    parameters = _parameters(verb, model)
    run.__signature__ = inspect.Signature(parameters)  # ty: ignore[missing-attribute]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    run.__doc__ = inspect.cleandoc(model.__doc__ or "")
    return run


def _emit_json(table: dict[str, Any]) -> None:
    _emit(json.dumps(table, ensure_ascii=False, default=str, allow_nan=False) + "\n")


def _emit(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _silent(text: str) -> None:
    del text


def _app(names: list[str]) -> App:
    app = App(
        name="yantai",
        help=HELP,
        version=__version__,
        result_action="return_value",
        default_parameter=Parameter(negative=""),
    )
    for name in names:
        app.command(_command(name, VERBS[name]), name=name)
    app.command(_run_recipe, name="run")
    return app


def _run_recipe(recipe: Path, /) -> None:
    """Run a recipe: a YAML file with a `verb:` line and that verb's settings.

    Example: yantai run recipes/poems.yaml

    Parameters
    ----------
    recipe
        the file; flags behind it override its values
    """
    raise AssertionError("main rewrites this verb before it is called")


def _expand_recipe(arguments: list[str]) -> tuple[list[str], dict[str, Any], str]:
    """`run FILE …` → the verb's own arguments, and the file's values."""
    if len(arguments) < 2 or arguments[1].startswith("-"):
        return arguments, {}, ""
    path = Path(arguments[1])
    values = read_yaml(path)
    verb = values.pop("verb", None)
    if verb not in VERBS:
        raise UsageError(
            "E202", f"{path}:verb", "unknown verb", expected=", ".join(VERBS), got=verb
        )
    return [verb, *arguments[2:]], values, str(path)


def _value_after(arguments: list[str], flag: str) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def _dispatch(arguments: list[str]) -> None:
    values: dict[str, Any] = {}
    source = ""
    if arguments[:1] == ["run"]:
        arguments, values, source = _expand_recipe(arguments)
    path = _value_after(arguments, "--config")
    if path is not None:
        values = {**values, **read_yaml(Path(path))}
        values.pop("verb", None)
        source = path
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    app = _app([verb] if verb else list(VERBS))
    layers: list[Any] = [Env("YANTAI_")]
    if verb and values:
        named = {key.replace("_", "-"): value for key, value in values.items()}
        layers.append(Dict({verb: named}, source=source))
    app.config = layers
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        unknown = isinstance(error, (UnknownCommandError, UnknownOptionError))
        where = verb or "yantai"
        raise UsageError(
            "E202" if unknown else "E201", where, str(error).replace("\n", " "), do="see --help"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    try:
        _dispatch(arguments)
    except YantaiError as error:
        if debug:
            raise
        sys.stderr.write(f"error[{error.code}] {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 7
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        if debug:
            raise
        text = ResourceError("E801", "memory", "ran out", do="lower --batch, --context or --size")
        sys.stderr.write(f"error[{text.code}] {text} ({plain(str(error))})\n")
        return text.exit_status
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"error[E000] {type(error).__name__}: {plain(str(error))}; "
            "this is a mistake of Yantai's own; run again with --debug and report it\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
