"""Folders and files that a GPU wrote are those of the CPU, and the other way round."""

import pytest
import torch
from test_gguf import KINDS, model_of
from test_probes import network_for

import yantai
from yantai.core.config import RecurrentConfig
from yantai.core.initialise import build
from yantai.families.folder import save_folder
from yantai.families.gguf import read_gguf, write_gguf
from yantai.families.probes import check_probes, write_probes
from yantai.families.table import family_named

DEVICE = "cuda"
torch.backends.cudnn.allow_tf32 = False  # as `choose_device` has it: recurrent networks in float32
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous"),
]
SHAPES = {
    "llama": ({}, None),
    "bert": ({"shape": "encoder", "position": "learned", "token_types": 2}, None),
    "t5": ({"shape": "encoder-decoder", "position": "relative"}, 0),
}
WAYS = [("cpu", DEVICE), (DEVICE, "cpu"), (DEVICE, DEVICE)]


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_folder_is_accepted_where_it_was_not_written(tokenizer, tmp_path, dtype, way):
    network = network_for(tokenizer).to(way[0], dtype)
    save_folder(network, family_named("llama"), tmp_path)
    tokenizer.save(tmp_path)
    write_probes(tmp_path, network, tokenizer)
    model = yantai.load(tmp_path, device=way[1], probes=True)
    first = next(model.network.parameters())
    assert (first.device.type, first.dtype) == (way[1], dtype)
    worst = check_probes(tmp_path, model.network, tokenizer)
    assert worst is not None and worst < (1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("name", [*SHAPES, "gru"])
def test_every_shape_answers_alike(tokenizer, tmp_path, name, way):
    changes, start = SHAPES.get(name, ({}, None))
    if name == "gru":
        config = RecurrentConfig(
            kind="gru", vocab_size=tokenizer.vocab_size, dim=32, hidden=48, layers=2,
            max_positions=96,
        )  # fmt: skip
        networks = [build(config, seed=1, table="recurrent") for _ in way]
    else:
        networks = [network_for(tokenizer, **changes) for _ in way]
    write_probes(tmp_path, networks[0].to(way[0]), tokenizer, start)
    worst = check_probes(tmp_path, networks[1].to(way[1]), tokenizer, start)
    assert worst is not None and worst < 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_written_to_the_byte(tokenizer, tmp_path, name):
    pytest.importorskip("gguf", reason="gguf is not installed")
    for place in ("cpu", DEVICE):
        network, family = model_of(name, tokenizer)
        network.to(place)
        (tmp_path / place).mkdir(exist_ok=True)
        save_folder(network, family, tmp_path / place)
        for kind in ("F32", "Q8_0"):
            write_gguf(tmp_path / place / f"{kind}.gguf", network, family, tokenizer, kind)
    for file in ("F32.gguf", "Q8_0.gguf", "model.safetensors", "config.json"):
        assert (tmp_path / "cpu" / file).read_bytes() == (tmp_path / DEVICE / file).read_bytes()
    read, _, _ = read_gguf(tmp_path / "cpu" / "F32.gguf", device=DEVICE)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        one, other = network(ids.to(DEVICE)), read(ids.to(DEVICE))
    assert torch.allclose(one, other, atol=1e-4)
