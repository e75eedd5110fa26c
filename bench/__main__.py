"""`make bench`: the machine's ceilings, then ours against the peers, in turn.

python -m bench [ceilings] [start] [training] [dropout] [objectives] [finetuning] [decoding]
                [serving] [cuda-training] [cuda-decoding]
"""

import argparse
import datetime
import subprocess
import sys
import time
import warnings

import torch

from bench import (
    ceilings,
    cuda_decoding,
    cuda_training,
    decoding,
    finetuning,
    objectives,
    serving,
    training,
)
from yantai.base.device import prepare_process

warnings.filterwarnings("ignore")


def start():
    """Seconds until `yantai --help` has answered."""
    found = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "yantai", "--help"], check=True, capture_output=True)
        found.append(time.perf_counter() - began)
    verdict = "yes" if min(found) < 0.5 else "NO"
    return [f"{'yantai --help':44} {min(found):6.2f} s   (wanted 0.5: {verdict})"]


PARTS = {
    "ceilings": lambda: ceilings.memory() + ceilings.products(),
    "start": start,
    "training": training.main,
    "dropout": training.with_dropout,
    "objectives": objectives.main,
    "finetuning": finetuning.main,
    "decoding": decoding.main,
    "serving": serving.main,
    "cuda-training": cuda_training.main,
    "cuda-decoding": cuda_decoding.main,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    chosen = parser.parse_args().part or list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: {', '.join(PARTS)}")
    prepare_process(2)
    torch.set_flush_denormal(True)  # for everybody, as Yantai's runs do for themselves
    print(f"{datetime.date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in chosen:
        print(f"\n== {name}")
        for line in PARTS[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
