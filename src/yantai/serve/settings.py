"""The flags of `yantai serve`. Imports no torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from yantai.base.config import Config

PORT = 8000


class Serve(Config):
    """Serve models over HTTP, in OpenAI's shapes.

    Example: yantai serve run/model --port 8000
    """

    models: tuple[str, ...] = Field(description="model folders, or names on the hub")
    host: str = Field("127.0.0.1", description="where to listen; others need a key")
    port: int = Field(PORT, ge=0, le=65535, description="where to listen")
    api_key_file: Path | None = Field(None, description="keys, or NAME sha256:HEX, one a line")
    allow_host: tuple[str, ...] = Field((), description="further names that clients call it by")
    slots: int = Field(16, ge=1, le=256, description="texts that are continued at once")
    waiting: int = Field(64, ge=0, description="further requests that may wait")
    tokens_per_minute: int | None = Field(None, ge=1, description="of each key")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="of a request")
    grace_seconds: float = Field(30.0, ge=0, description="for open answers when it ends")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="type of the arithmetic; auto is the fastest here"
    )
    device: str = Field("auto", description="cpu, cuda, or auto")
    threads: int | None = Field(None, ge=1, description="CPU threads")
    seed: int = Field(0, ge=0, description="recorded; every request has its own")
    log: Literal["requests", "errors"] = Field(
        "requests", description="what is told on standard error, a line of JSON each; never a text"
    )
