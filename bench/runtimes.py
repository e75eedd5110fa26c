"""Other programs that run a Llama, where they are installed: llama.cpp and onnxruntime-genai.

Knows: how each is given a folder of ours, and its own loop of greedy decoding, as near to its
functions as Python comes. Both are in the process of their contender, with two threads.

    pip install llama-cpp-python               (compiles for ten minutes)
    pip install onnxruntime-genai onnx onnx_ir
"""

import atexit
import ctypes
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

THREADS = 2
CONTEXT = 1024


def there(name):
    """Whether a program can be asked; else a line says why not."""
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name}: not installed, so not compared", flush=True)
    return found


def kept_folder():
    """A folder for the life of the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


class LlamaCpp:
    """A context of llama.cpp over a model folder of ours, written as GGUF.

    Args:
        folder: the model.
        kind: as of `yantai export --type`.
        sequences: how many may run side by side.
    """

    def __init__(self, folder, kind, sequences=1):
        import llama_cpp

        from yantai.families.gguf import write_gguf
        from yantai.infer.opening import load

        model = load(folder, dtype="float32")
        path = kept_folder() / "model.gguf"
        write_gguf(path, model.network, model.family, model.tokenizer, kind)
        self.vocab = model.network.config.vocab_size
        self.library = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        given = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), given)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT * sequences, 512, 512
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = THREADS
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.batch = llama_cpp.llama_batch_init(CONTEXT * sequences, 0, 1)

    def forget(self):
        """Empty the cache."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def read(self, rows, began):
        """Tokens of each sequence, that stand behind `began` others; its likeliest next ones."""
        batch, count, last = self.batch, 0, []
        for sequence, row in enumerate(rows):
            for place, token in enumerate(row):
                batch.token[count], batch.pos[count] = token, began + place
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                batch.logits[count] = place == len(row) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        assert self.library.llama_decode(self.context, batch) == 0
        return [self._likeliest(place) for place in last]

    def _likeliest(self, place):
        logits = self.library.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())


def llama_cpp_step(folder, kind, prompts, new):
    """All prompts side by side, `new` tokens each; the prompts are as long as each other."""
    llama = LlamaCpp(folder, kind, len(prompts))

    def step():
        llama.forget()
        tokens = llama.read(prompts, 0)
        for done in range(new - 1):
            tokens = llama.read([[token] for token in tokens], len(prompts[0]) + done)
        return tokens

    return step


def genai_step(folder, prompt, new):
    """onnxruntime-genai, its own int4, one prompt."""
    out = kept_folder()
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder)]
    command += ["-o", str(out), "-p", "int4", "-e", "cpu"]
    subprocess.run(command, check=True, capture_output=True)
    import onnxruntime_genai

    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = THREADS
    path.write_text(json.dumps(config))
    model = onnxruntime_genai.Model(str(out))
    ids = np.array(prompt, np.int32)

    def step():
        settings = onnxruntime_genai.GeneratorParams(model)
        length = len(ids) + new
        settings.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = onnxruntime_genai.Generator(model, settings)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()

    return step
