"""A model inside lm-evaluation-harness, for its tasks and for those that others wrote for it.

Knows: what the harness asks of a model: ln p of continuations, of whole texts, and text up to a
stop. How a request becomes tokens is the harness's own way, so that figures compare with those of
others. Needs `pip install 'yantai[eval]'`.
"""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from yantai.base.config import build
from yantai.base.errors import UsageError
from yantai.data.batch import IGNORED
from yantai.data.examples import Example, ExampleRows
from yantai.evaluate.compare import Estimate
from yantai.infer.generate import generate_ids
from yantai.infer.language_model import LanguageModel
from yantai.infer.settings import Generation
from yantai.infer.stops import cut_at_stop
from yantai.tasks.causal import continuations

NEW_TOKENS = 256
"""As long as the harness's own models write where a task does not say."""


class Harnessed(TemplateLM):
    """The harness's `LM` round one of ours.

    Args:
        model: a decoder with a tokenizer.
        batch: rows or prompts at once; no score depends on it.

    Raises:
        UsageError: the model is no decoder.
    """

    def __init__(self, model: LanguageModel, batch: int = 8):
        super().__init__()
        if model.shape != "decoder" or model.job:
            got = model.job or model.shape
            raise UsageError("E201", "model", "the harness asks decoders alone", got=got)
        self.model, self.batch = model, batch
        self.length = model.network.config.max_positions
        self._chat = False

    @property
    def eot_token_id(self) -> int:
        """What ends a text, and stands before one that has nothing before it."""
        tokenizer = self.model.tokenizer
        found = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
        return found if found is not None else 0

    @property
    def prefix_token_id(self) -> int:
        """BOS, where there is one."""
        bos = self.model.tokenizer.bos_id
        return bos if bos is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """By which the harness keeps requests apart."""
        return self.model.tokenizer.hash[:16]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's own, or none."""
        return self.model.chat_format.template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, control tokens spelled out; from now on they are read as such."""
        self._chat = True
        return self.model.chat_format.render(chat_history, reply=add_generation_prompt).text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text, with the tokens that a prompt of this model begins with."""
        if self._chat:
            return self.model.chat_format.encode_rendered(string)
        tokenizer = self.model.tokenizer
        return tokenizer.encode(string) if add_special_tokens is False else tokenizer.prompt(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        examples = []
        for number, (_, before, follows) in enumerate(requests):
            whole = before + follows
            targets = [IGNORED] * (len(before) - 1) + follows
            # the end is what counts: of a long beginning the last tokens are kept
            ids, aims = whole[:-1][-self.length :], targets[-self.length :]
            examples.append(Example(ids, aims, f"request {number + 1}"))
        if not examples:
            return []
        rows = ExampleRows(examples, max(len(example.ids) for example in examples))
        found = continuations(self.model.network, rows, self.batch)
        return [(float(sum_), bool(likeliest)) for sum_, likeliest in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Σ ln p of each text, in windows of the model's context, each token once."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            ids = self.model.tokenizer.encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.length, 1)
            for window in windows:
                pairs.append((None, *make_disjoint_window(window)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(pairs), strict=True):
            sums[owner] += value
        return sums

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each prompt, up to a text that stops it."""
        return [self._written(*request.args) for request in requests]

    def _written(self, prompt: str, given: dict[str, Any]) -> str:
        settings = dict(given)
        until = settings.pop("until", None) or ()
        limit = settings.pop("max_gen_toks", None) or settings.pop("max_new_tokens", None)
        room = min(int(limit or NEW_TOKENS), self.length - 1)
        if settings.get("do_sample") is False:  # then a temperature says nothing
            settings.pop("temperature", None)
        stop = (until,) if isinstance(until, str) else tuple(until)
        chosen = build(Generation, settings | {"stop": stop, "max_new_tokens": room}, "harness")
        ids = self.tok_encode(prompt)[-(self.length - room) :] or [self.prefix_token_id]
        row = generate_ids(self.model.network, [ids], chosen, self.model.eos_ids)[0]
        return cut_at_stop(self.model.tokenizer.decode(row[len(ids) :], after=ids), chosen.stop)


def harness_report(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of tasks of the harness, as it reports them.

    Args:
        model: a decoder.
        tasks: their names.
        folder: of further tasks, YAML files.
        limit: examples a task; a score of few is for trying only.
        seed: of every draw that the harness makes.

    Returns:
        Its `results`, `versions` and `n-samples`, and the name of each task.

    Raises:
        UsageError: there is no such task.
    """
    manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown or not tasks:
        do = "lm-eval ls tasks lists them; --harness-folder adds a folder"
        raise UsageError("E201", "harness", f"no task {', '.join(unknown)!r}", do=do)
    try:
        found: Any = simple_evaluate(
            Harnessed(model), tasks=list(tasks), limit=limit, task_manager=manager,
            log_samples=False, random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed,
            fewshot_random_seed=seed,
        )  # fmt: skip
    except (ConnectionError, FileNotFoundError) as error:
        raise UsageError(
            "E206", f"harness {', '.join(tasks)}", "its data are not here and could not be fetched",
            got=(str(error) or type(error).__name__).splitlines()[0][:200],
            do="be on a network once, or name tasks of your own with --harness-folder",
        ) from error  # fmt: skip
    assert found is not None
    kept = ("results", "versions", "n-samples")
    facts = {key: cast(Any, found)[key] for key in kept}
    return {"tasks": list(tasks), **facts, "intervals": _intervals(facts["results"])}


def _intervals(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """95 % of each value that the harness gives a standard error; it is a mean, taken as normal."""
    found: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        for name, value in values.items():
            metric, _, how = name.partition(",")
            error = values.get(f"{metric}_stderr,{how}")
            if isinstance(error, float) and isfinite(error):
                reach = 1.959964 * error
                estimate = Estimate(value, value - reach, value + reach)
                found.setdefault(task, {})[name] = estimate.as_dict()
    return found
