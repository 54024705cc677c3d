"""Published checkpoints, built with random weights by their authors' names.

Names, shapes and config entries follow what the authors' own modules save: HiViS's ``cnets_hivis``,
ViSpec's ``cnets_ours`` and EAGLE's ``cnets1``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.small_llava import VOCAB

E, HEADS, INNER = 64, 4, 96
LLAVA = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": E, "initializer_range": 0.02, "intermediate_size": INNER,
    "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": HEADS,
    "num_hidden_layers": 1, "pad_token_id": 0, "rms_norm_eps": 1e-05, "tie_word_embeddings": False,
    "torch_dtype": "float16", "use_cache": True, "vocab_size": VOCAB,
}  # fmt: skip
QWEN = LLAVA | {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "model_type": "qwen2_5_vl",
    "num_key_value_heads": 2,
    "qkv_bias": True,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
LLAMA_3 = LLAVA | {"num_key_value_heads": 2, "rope_theta": 500000.0, "bias": False}
# kind, config, file, dtype
PUBLISHED = {
    "HiViS-llava": ("hivis", LLAVA, "model.safetensors", torch.float16),
    "HiViS-Qwen2.5-VL": ("hivis", QWEN, "model.safetensors", torch.bfloat16),
    "ViSpec-llava": ("vispec", LLAVA | {"model_type": "llava_next", "rope_scaling": None},
                     "model.safetensors", torch.float32),
    "ViSpec-Qwen2.5-VL": ("vispec", QWEN | {"num_key_value_heads": HEADS},
                          "model.safetensors", torch.bfloat16),
    "EAGLE-Vicuna": ("eagle", LLAVA, "pytorch_model.bin", torch.float16),
    "EAGLE-LLaMA3": ("eagle", LLAMA_3, "pytorch_model.bin", torch.float16),
    "EAGLE-Qwen2": ("eagle", QWEN | {"model_type": "qwen2"}, "pytorch_model.bin", torch.bfloat16),
}  # fmt: skip
#: How the images of its target are hidden from a HiViS drafter; the others hide nothing.
HIDING = {
    name: {"positions": "original", "hide_before": 1, "hide_after": 2} if "Qwen" in name else {}
    for name in PUBLISHED
}


def weights(kind: str, config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors by the published names, the frozen embedding table among them."""
    keys = config.get("num_key_value_heads", HEADS) * E // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (VOCAB, E),
        "layers.0.self_attn.q_proj.weight": (E, E),
        "layers.0.self_attn.k_proj.weight": (keys, E),
        "layers.0.self_attn.v_proj.weight": (keys, E),
        "layers.0.self_attn.o_proj.weight": (E, E),
        "layers.0.mlp.gate_proj.weight": (INNER, E),
        "layers.0.mlp.up_proj.weight": (INNER, E),
        "layers.0.mlp.down_proj.weight": (E, INNER),
        "layers.0.post_attention_layernorm.weight": (E,),
        "fc.weight": (E, (3 if kind == "hivis" else 2) * E),
    }
    if config.get("bias", True):
        shapes["fc.bias"] = (E,)
    if config.get("qkv_bias"):
        for part, size in (("q", E), ("k", keys), ("v", keys)):
            shapes[f"layers.0.self_attn.{part}_proj.bias"] = (size,)
    if kind == "hivis":
        shapes["residual"] = (3, E)
    if kind == "vispec":
        shapes |= {
            "imadpt.q": (2, HEADS, E // HEADS),
            "imadpt.k_proj.weight": (E, E),
            "imadpt.v_proj.weight": (E, E),
            "imadpt.o_proj.weight": (E, E),
            "img_fc.weight": (E, 2 * E),
            "img_fc.bias": (E,),
        }
        if config.get("qkv_bias"):
            shapes["imadpt.k_proj.bias"] = shapes["imadpt.v_proj.bias"] = (E,)
    make = torch.Generator().manual_seed(7)
    return {
        name: (torch.randn(shape, generator=make) * (0.12 if len(shape) > 1 else 0.5)).to(dtype)
        for name, shape in shapes.items()
    }


def write(folder: Path, name: str) -> dict[str, Tensor]:
    kind, config, file, dtype = PUBLISHED[name]
    tensors = weights(kind, config, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".bin"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)
    return tensors
