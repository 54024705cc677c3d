"""Configurations of real sizes, for models with random weights.

The figures are those of the published ``config.json`` under each name. ``--scale tiny`` keeps every
ratio that matters to the code path (grouped heads, images in tiles, rotary sections), but not the
size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
)

from hivis.errors import HivisError

#: Of a tiny model: head width, vocabulary, layers of text and of vision.
TINY_HEAD, TINY_VOCAB, TINY_LAYERS = 32, 512, 2


@dataclass(frozen=True)
class LanguageModelSizes:
    """The sizes of a language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True)
class ModelShape:
    """A model of real size, or a scaled one.

    Attributes:
        model: the published model whose sizes these are.
        config: its transformers configuration.
        images: height and width of the images that a prompt may hold, the largest first.
        scaled: in words, what differs from the published sizes; ``None`` where nothing does.
    """

    name: str
    model: str
    config: Any
    images: tuple[tuple[int, int], ...]
    scaled: str | None


LLAVA_7B = LanguageModelSizes(4096, 11008, 32, 32, 32, 32064)
LLAVA_13B = LanguageModelSizes(5120, 13824, 40, 40, 40, 32064)
QWEN_7B = LanguageModelSizes(3584, 18944, 28, 28, 4, 152064)
LLAVA_IMAGE = 32000
#: Sides of the tiles of LLaVA-NeXT's images, as multiples of the vision tower's.
TILES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


def _clip(tiny: bool) -> Any:
    """CLIP ViT-L/14 at 336 pixels, the vision tower of LLaVA-1.5 and LLaVA-NeXT."""
    if tiny:
        return CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=TINY_LAYERS,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            projection_dim=32,
        )
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def _llama(text: LanguageModelSizes) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=text.hidden,
        intermediate_size=text.intermediate,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        num_key_value_heads=text.kv_heads,
        head_dim=text.head_dim,
        vocab_size=text.vocab,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )


def _llava(text: LanguageModelSizes, tiny: bool) -> tuple[Any, list[tuple[int, int]]]:
    clip = _clip(tiny)
    config = LlavaConfig(
        vision_config=clip,
        text_config=_llama(text),
        tie_word_embeddings=False,
        image_token_index=TINY_VOCAB - 1 if tiny else LLAVA_IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return config, [(clip.image_size, clip.image_size)]


def _llava_next(text: LanguageModelSizes, tiny: bool) -> tuple[Any, list[tuple[int, int]]]:
    clip = _clip(tiny)
    sides = [(high * clip.image_size, wide * clip.image_size) for high, wide in TILES]
    config = LlavaNextConfig(
        vision_config=clip,
        text_config=_llama(text),
        tie_word_embeddings=False,
        image_token_index=TINY_VOCAB - 1 if tiny else LLAVA_IMAGE,
        image_grid_pinpoints=sides,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return config, [sides[2], sides[0]]


def _qwen(text: LanguageModelSizes, tiny: bool) -> tuple[Any, list[tuple[int, int]]]:
    vision: dict[str, Any] = dict(
        depth=32,
        hidden_size=1280,
        intermediate_size=3420,
        num_heads=16,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        tokens_per_second=2,
        window_size=112,
        fullatt_block_indexes=[7, 15, 23, 31],
        out_hidden_size=text.hidden,
    )
    if tiny:
        vision |= dict(
            depth=TINY_LAYERS,
            hidden_size=32,
            intermediate_size=48,
            num_heads=2,
            fullatt_block_indexes=[1],
        )
    # Sections of time, height and width: a quarter, three eighths and three eighths of the pairs.
    part = text.head_dim // 16
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [2 * part, 3 * part, 3 * part],
    }
    first = TINY_VOCAB - 5 if tiny else 151652
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        tie_word_embeddings=False,
        text_config=dict(
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            vocab_size=text.vocab,
            max_position_embeddings=128000,
            rms_norm_eps=1e-6,
            rope_parameters=rope,
            bos_token_id=None,
            eos_token_id=None,
        ),
        vision_start_token_id=first,
        vision_end_token_id=first + 1,
        image_token_id=first + 3,
        video_token_id=first + 4,
    )
    return config, [(112, 112)] if tiny else [(672, 672)]


MakeConfig = Callable[[LanguageModelSizes, bool], tuple[Any, list[tuple[int, int]]]]
#: By name: the published model, its language model and what makes the configuration.
SHAPES: dict[str, tuple[str, LanguageModelSizes, MakeConfig]] = {
    "llava-1.5-7b": ("llava-hf/llava-1.5-7b-hf", LLAVA_7B, _llava),
    "llava-1.5-13b": ("llava-hf/llava-1.5-13b-hf", LLAVA_13B, _llava),
    "llava-next-7b": ("llava-hf/llava-v1.6-vicuna-7b-hf", LLAVA_7B, _llava_next),
    "qwen2.5-vl-7b": ("Qwen/Qwen2.5-VL-7B-Instruct", QWEN_7B, _qwen),
}
SCALES = ("tiny",)


def shape_of(name: str, scale: str | None = None, layers: int | None = None) -> ModelShape:
    """The shape of this name, scaled or with another number of layers if asked for.

    Raises:
        HivisError: there is no such shape, or no such number of layers.
    """
    if name not in SHAPES:
        raise HivisError(f"shape: wanted one of {', '.join(SHAPES)}, got {name}")
    model, text, make = SHAPES[name]
    words = []
    if scale is not None:
        text = _tiny(text)
        words.append(f"scaled to {scale}")
    if layers is not None:
        if layers < 1:
            raise HivisError(f"--layers: wanted at least 1, got {layers}")
        text = LanguageModelSizes(**{**vars(text), "layers": layers})
        words.append(f"{layers} layers instead of {SHAPES[name][1].layers}")
    config, images = make(text, scale is not None)
    return ModelShape(name, model, config, tuple(images), ", ".join(words) or None)


def _tiny(text: LanguageModelSizes) -> LanguageModelSizes:
    """Small sizes with the same ratios: query heads per key head, and MLP width per hidden size."""
    kv_heads = max(1, text.kv_heads // 8)
    heads = kv_heads * text.heads // text.kv_heads
    hidden = heads * TINY_HEAD
    intermediate = hidden * text.intermediate // text.hidden // 32 * 32
    return LanguageModelSizes(hidden, intermediate, TINY_LAYERS, heads, kv_heads, TINY_VOCAB)
