"""What OpenAI's published description of its API asks of the bodies that engines take, in short."""

from __future__ import annotations

TEXT = {"type": "string", "maxLength": 40}
TOKENS = {"type": "integer", "minimum": 1, "maximum": 8}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
OPTIONAL = {
    "stream": {"type": "boolean"},
    "n": {"type": "integer", "minimum": 1, "maximum": 3},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": SHARE,
    "seed": {"type": "integer"},
    "stop": {"oneOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": 4}]},
    "user": TEXT,
}
MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant"]},
        "content": {
            "oneOf": [
                TEXT,
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 2,
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"enum": ["text"]}, "text": TEXT},
                    },
                },
            ]
        },
    },
}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8}
MODEL = {"enum": ["fake"]}

BODIES = {
    "/v1/completions": {
        "required": ["model", "prompt", "max_tokens"],
        "properties": {
            "model": MODEL,
            "prompt": {"oneOf": [TEXT, IDS, {"type": "array", "items": TEXT, "minItems": 1}]},
            "max_tokens": TOKENS,
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 5},
            **OPTIONAL,
        },
    },
    "/v1/chat/completions": {
        "required": ["model", "messages", "max_tokens"],
        "properties": {
            "model": MODEL,
            "messages": {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 3},
            "max_tokens": TOKENS,
            "logprobs": {"type": "boolean"},
            "response_format": {"type": "object"},
            **OPTIONAL,
        },
    },
    "/v1/embeddings": {
        "required": ["model", "input"],
        "properties": {
            "model": MODEL,
            "input": {"oneOf": [TEXT, IDS, {"type": "array", "items": TEXT, "minItems": 1}]},
            "encoding_format": {"enum": ["float", "base64"]},
        },
    },
}


def description():
    """Return an OpenAPI document."""
    return {
        "openapi": "3.0.3",
        "info": {"title": "OpenAI API, in short", "version": "1"},
        "paths": {path: {"post": _operation(body)} for path, body in BODIES.items()},
    }


def _operation(body):
    content = {"application/json": {"schema": {"type": "object", **body}}}
    return {
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "An answer."}},
    }
