"""A random small LLaVA: the real classes and code paths, weights from a fixed seed."""

from __future__ import annotations

from functools import lru_cache

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from hivis.core.target import Inputs
from hivis.models.families.llava import Llava
from hivis.models.target import HuggingFaceTarget

VOCAB = 211
IMAGE_TOKEN = VOCAB - 1
IMAGE_ROWS = 16


def llava_config(heads: int = 4, kv_heads: int = 4, layers: int = 3) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=VOCAB,
            max_position_embeddings=256,
            head_dim=16,
        ),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
    )


@lru_cache
def random_llava(
    seed: int = 0, heads: int = 4, kv_heads: int = 4, device: str = "cpu"
) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(llava_config(heads, kv_heads)).eval()
    with torch.no_grad():
        # At their initial scale random weights give flat logits. Sharper ones make a text in which
        # a token depends on the one before, so that wrong rows would show.
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.mul_(4.0)
        model.lm_head.weight.mul_(1.5)
    model.generation_config.eos_token_id = None
    return model.to(device)


def random_target(
    seed: int = 0, kv_heads: int = 4, device: torch.device | str = "cpu"
) -> HuggingFaceTarget:
    return HuggingFaceTarget(random_llava(seed, kv_heads=kv_heads, device=str(device)), Llava())


def random_inputs(
    seed: int, text: int = 9, images: int = 1, device: torch.device | str = "cpu"
) -> Inputs:
    """A prompt of ``text`` random tokens with the images' slots somewhere among them."""
    make = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, IMAGE_TOKEN, (text,), generator=make).tolist()
    for _ in range(images):
        place = int(torch.randint(1, len(tokens), (1,), generator=make))
        tokens[place:place] = [IMAGE_TOKEN] * IMAGE_ROWS
    features = {}
    if images:
        features["pixel_values"] = torch.randn(images, 3, 32, 32, generator=make).to(device)
    return Inputs(torch.tensor([tokens], device=device), features)
