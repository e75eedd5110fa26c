"""Whether a training fits into the memory at hand.

Knows: sizes of models. What a fine-tuning begins with is a folder, or is made to a size.
"""

from yantai.base.device import available_memory_bytes, choose_device, choose_dtype
from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.cost import count, training_bytes
from yantai.core.initialise import build_meta
from yantai.families.adapter import is_adapter
from yantai.families.folder import CONFIG, read_config_json
from yantai.families.hub import local_folder
from yantai.families.table import family_named, family_of
from yantai.life.doctor_case import Finding
from yantai.life.jobs.job import Job
from yantai.training.network import model_config
from yantai.training.recipe import Finetune, Pretrain, Training
from yantai.training.setup import fill_in


def memory_of(config: ModelConfig | RecurrentConfig, recipe: Training) -> Finding:
    """About what a training of all weights takes, beside what is free.

    Args:
        config: of the model.
        recipe: with batch and context filled in.
    """
    device, context = choose_device(recipe.device), recipe.context or 1
    cost = count(build_meta(config), context)
    memory = training_bytes(
        cost, config, batch=recipe.batch or 1, context=context,
        compute_bytes=choose_dtype(recipe.dtype, device).itemsize, copies=2,
        on_gpu=device.type == "cuda",
    )  # fmt: skip
    free = available_memory_bytes(device)
    level = "problem" if memory > free else "ok"
    size = f"{cost.parameters / 1e6:.1f} M parameters"
    return (level, f"memory: {size}, about {memory / 1e9:.2f} GB of {free / 1e9:.1f} GB free")


def memory_of_finetuning(settings: Finetune, job: Job) -> Finding | None:
    """The same of a fine-tuning; None where it cannot be said: adapters, a folder that is not here.

    Of a model from scratch that reads first, this is what the reading takes.
    """
    if settings.lora:
        return None
    if settings.model == "scratch":
        body = fill_in(
            Pretrain(
                data=(settings.data,), out=settings.out, size=settings.size,
                family=settings.family or job.usual_family, context=settings.context,
                vocab_size=settings.vocab_size, device=settings.device, dtype=settings.dtype,
            )
        )  # fmt: skip
        batch = settings.batch or (1 if settings.pretrain_minutes == 0 else body.batch)
        config = model_config(body, family_named(body.family), body.vocab_size)
        return memory_of(config, body.model_copy(update={"batch": batch}))
    folder = local_folder(settings.model)
    if is_adapter(folder) or not (folder / CONFIG).is_file():
        return None
    table = read_config_json(folder)
    config = family_of(table.get("model_type"), str(folder)).read_config(table, str(folder))
    filled = fill_in(settings)
    batch = settings.batch or (1 if job.judges else filled.batch)
    context = min(filled.context or 1, config.max_positions)
    return memory_of(config, filled.model_copy(update={"batch": batch, "context": context}))
