"""Models by their names on the Hugging Face hub: fetched once, then opened from the copy.

Knows: names, and which files of a repository are a model. The client library shows progress, goes
on with what was half fetched, and answers from its cache without a network.
"""

import os
import re
from pathlib import Path

from yantai.base.errors import UsageError
from yantai.base.log import say

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
WANTED = [
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt",
]  # fmt: skip
"""Nothing that could run, and weights in one form only."""


def local_folder(place: str | Path) -> Path:
    """The folder of a model: the one of that name, or the hub's, fetched where it is not there yet.

    Args:
        place: a folder; or `owner/name`, or `owner/name@revision`, if no such folder exists.

    Raises:
        UsageError: E206, it is neither, or the hub cannot be reached and holds no copy here.
    """
    folder, name = Path(place), str(place)
    is_near = Path(name.split("/")[0]).exists()  # then it is a path, with a mistake further on
    of_a_run = folder.name in ("model", "last")  # RUN/model, asked for from another folder
    if folder.exists() or is_near or of_a_run or not NAME.fullmatch(name):
        return folder
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    say(f"{name}: from the hub, or from the copy that was fetched before")
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=WANTED))
    except Exception as error:  # of the client, of its two HTTP libraries, of the system
        first = str(error).strip().splitlines()
        raise UsageError(
            "E206", name, "no such folder, and the hub did not give it", expected="a model folder",
            got=first[0].removeprefix("Got: ")[:200] if first else type(error).__name__,
            do=f"check the name (this folder is {Path.cwd()}) and the network; HF_ENDPOINT names "
            "a mirror",
        ) from error  # fmt: skip
