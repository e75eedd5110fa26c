"""`yantai.train(recipe)`: what the command line calls, for Python.

Knows: a recipe as a table, a file or a configuration.
"""

from pathlib import Path
from typing import Any

from yantai.base.config import build, read_yaml
from yantai.base.errors import UsageError
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain


def train(recipe: Pretrain | dict[str, Any] | str | Path) -> dict[str, Any]:
    """Train a model.

    Args:
        recipe: a `Pretrain`, a table of its fields, or the path of a YAML recipe.

    Returns:
        What `yantai pretrain --json` prints: the model's folder and the run's figures.

    Raises:
        YantaiError: as on the command line.
    """
    if isinstance(recipe, Pretrain):
        return pretrain(recipe)
    where = "recipe"
    if isinstance(recipe, (str, Path)):
        where, recipe = str(recipe), read_yaml(Path(recipe))
    values = dict(recipe)
    verb = values.pop("verb", "pretrain")
    if verb != "pretrain":
        raise UsageError("E202", f"{where}:verb", "not a training", expected="pretrain", got=verb)
    return pretrain(build(Pretrain, values, where))
