"""Shapes are checked under the tests: every annotated function of these rooms is type-checked."""

import os
import signal
import sys
from pathlib import Path

from jaxtyping import install_import_hook

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_OTHERS:  # threads that wait must not take a processor from another worker's tests
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
install_import_hook(["yantai.core", "yantai.infer"], "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1 if BESIDE_OTHERS else 2)


def pytest_configure(config):
    """Ordinary tests are about a machine without a GPU, whatever machine they run on."""
    if not _wants_cuda(config):  # read when torch asks for a GPU for the first time
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _wants_cuda(config):
    """Whether tests of a GPU were asked for, by their mark or by their files."""
    chosen = config.getoption("markexpr", "")
    by_mark = "cuda" in chosen and "not cuda" not in chosen
    files = [Path(each.partition("::")[0]).name for each in config.args]
    return by_mark or all(name.startswith(ON_CUDA) for name in files)


ON_CUDA = "test_cuda_"
"""How files of tests begin that need a GPU; all their tests are marked `cuda`."""
LONG = ("test_docs.py", "test_programs.py", "test_recipes.py", "test_cli.py")
"""Their tests take minutes each: begun last, they would leave the other processor idle."""


def pytest_collection_modifyitems(items):
    """Files with long tests come first; otherwise the order is as it was."""
    for item in items:
        if item.path.name.startswith(ON_CUDA):
            item.add_marker(pytest.mark.cuda)
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def data():
    """The folder of real data; a test that needs it is skipped, with the reason, without it."""
    folder = os.environ.get("YANTAI_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("YANTAI_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def tokenizer():
    """A small byte-level BPE trained on the village."""
    from yantai.text.chat import CHATML
    from yantai.text.tokenizer import Tokenizer
    from yantai.text.village import Village

    rows = Village(seed=3).documents(400)
    trained = Tokenizer.train((row["text"] for row in rows), 1024)
    trained.chat_template = CHATML
    return trained


@pytest.fixture(scope="session")
def some_model():
    """Builds a small model in float64 whose weights are no first weights any more."""
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build

    def make(shape="decoder", vocab_size=50, **changes):
        config = ModelConfig(
            vocab_size=vocab_size, dim=16, layers=2, heads=2, head_dim=8, hidden=24, shape=shape,
            **{"max_positions": 64, "kv_heads": 2} | changes,
        )  # fmt: skip
        model = build(config, seed=1, table="gpt2", dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model.eval()

    return make


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell starts its background jobs deaf to Ctrl-C, which the tests of signals need."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def numbers_are_left_as_they_were():
    """A run may take small numbers for zero; whoever called it must not find them so afterwards."""
    yield
    assert sys.float_info.min / 2 > 0.0
