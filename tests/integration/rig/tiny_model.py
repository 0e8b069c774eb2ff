"""A generated mixture-of-experts model: configuration, word-level tokenizer, weights on demand.

Four layers whose attention carries most of the work, so that a step's duration follows the KV
tokens, and eight small experts, so that dispatch and combine run in every layer. For
measurements vLLM fills in the weights (``--load-format dummy``); tests of outputs want weights
with which a token depends on all that stand before it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 1024
"""Words of the tokenizer, the special tokens included."""

CONTEXT = 16384
"""Longest sequence in tokens."""

_SPECIAL = ("<unk>", "<s>", "</s>")


def configuration(layers: int = 4, kv_heads: int = 8) -> dict[str, Any]:
    """The model's ``config.json``.

    Parameters
    ----------
    layers : int
        Decoder layers.
    kv_heads : int
        KV heads of 128 channels; as many query heads.
    """
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 256,
        "moe_intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": kv_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def word(token: int) -> str:
    """The word that the tokenizer reads as one ordinary token, `token` in 3..VOCABULARY-1."""
    return f"w{token}"


def tokenizer() -> dict[str, Any]:
    """The tokenizer's ``tokenizer.json``: words between white space, one token each."""
    words = [*_SPECIAL, *(word(i) for i in range(len(_SPECIAL), VOCABULARY))]
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": index,
                "content": content,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for index, content in enumerate(_SPECIAL)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {content: index for index, content in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's tensors, as checkpoints of this architecture have them."""
    config = configuration()
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (VOCABULARY, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (heads, hidden) for p in "qkv"}
        shapes |= {f"{at}.self_attn.{p}_norm.weight": (config["head_dim"],) for p in "qk"}
        shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, heads)
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{at}.mlp.gate.weight"] = (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            one = f"{at}.mlp.experts.{expert}"
            shapes |= {f"{one}.{p}_proj.weight": (inner, hidden) for p in ("gate", "up")}
            shapes[f"{one}.down_proj.weight"] = (hidden, inner)
    return shapes


def write_weights(folder: Path, seed: int = 0) -> None:
    """Write ``model.safetensors``: norms 1, the rest normal with variance 1/inputs."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in weight_shapes().items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, np.float32)
        else:
            scale = 1.0 if "embed" in name else shape[-1] ** -0.5
            tensors[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_model(folder: Path, *, weights: bool = False) -> Path:
    """Write the model's files into `folder`, its weights if asked, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": configuration(),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": CONTEXT,
            "chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}",
        },
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    if weights:
        write_weights(folder)
    return folder
