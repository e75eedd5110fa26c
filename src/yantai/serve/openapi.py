"""What the server takes, in the words of OpenAPI 3.1: for generators of clients, and of attacks.

Knows: the shapes of requests, and which routes there are.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from yantai.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TaskRequest

POSTS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}
REFUSALS = {
    "400": "something about the request is wrong; `param` says what",
    "401": "no valid key",
    "403": "the server is not called by that name",
    "404": "no such model",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "429": "too many requests or tokens; Retry-After says when",
    "503": "the server shuts down, or its engine makes no progress",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(jobs: Iterable[str], reads: Iterable[str]) -> dict[str, Any]:
    """The whole description.

    Args:
        jobs: names of routes below /v1 that take texts.
        reads: paths that are only read.
    """
    takes = POSTS | {f"/v1/{job}": TaskRequest for job in jobs}
    modes: Any = [(model, "validation") for model in dict.fromkeys(takes.values())]
    names, schemas = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {
        path: {
            "post": {
                "requestBody": {"required": True, "content": _json(names[model, "validation"])},
                "responses": _responses(),
            }
        }
        for path, model in takes.items()
    }
    for path in reads:
        named = "{name}" in path
        paths[path.replace(":path", "")] = {
            "get": {"responses": _responses()} | ({"parameters": [_NAME]} if named else {})
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Yantai", "version": version("yantai")},
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "schemas": schemas["$defs"] | {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses() -> dict[str, Any]:
    refused = {"$ref": "#/components/schemas/Error"}
    told = {code: {"description": text, "content": _json(refused)} for code, text in
            REFUSALS.items()}  # fmt: skip
    return {"200": {"description": "the answer"}} | told
