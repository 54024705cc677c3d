"""Random small checkpoints of every family, with processors, as their authors would save them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    SmolVLMConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from hivis.models.families.qwen_vl import StillImages

IMAGE = "<image>"
QWEN = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
IDEFICS = ["<fake_token_around_image>", IMAGE, "<end_of_utterance>", "<global-img>"] + [
    f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)
]
#: Sizes (width, height) of which no two give an image as many rows.
SIZES = [(40, 24), (30, 70), (64, 32)]


@dataclass(frozen=True)
class Recipe:
    """What makes a checkpoint: a config of the text model's ``sizes``, and a processor."""

    specials: list[str]
    slot: str  # what the chat template has for an image
    ending: str = "\n"

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Bytes and the special tokens, behind an alphabet of 256."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(
            models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[])
        )
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        made = PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            padding_side="left",
        )
        made.add_special_tokens({"additional_special_tokens": self.specials})
        return made

    @property
    def template(self) -> str:
        return (
            "{% for message in messages %}{{ message['role'] + ': ' }}"
            "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
            "{{ '" + self.slot + "' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
            "{{ '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
        )


RECIPES = {
    "llava": Recipe([IMAGE], IMAGE),
    "llava_next": Recipe([IMAGE], IMAGE),
    "qwen2_5_vl": Recipe(QWEN, "".join(QWEN[:3])),
    "qwen2_vl": Recipe(QWEN, "".join(QWEN[:3])),
    "idefics3": Recipe(IDEFICS, IMAGE),
    "smolvlm": Recipe(IDEFICS, IMAGE),
}
VOCAB = 288
HIDDEN, HEADS, HEAD_DIM = 64, 4, 16


def text_sizes(kv_heads: int) -> dict[str, Any]:
    return dict(
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        vocab_size=VOCAB,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )


def config_of(kind: str, tokenizer: PreTrainedTokenizerFast, kv_heads: int = 2) -> Any:
    text, id_of = text_sizes(kv_heads), tokenizer.convert_tokens_to_ids
    clip = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
    )
    llama = LlamaConfig(**text, head_dim=HEAD_DIM)
    if kind == "llava":
        return LlavaConfig(
            vision_config=clip,
            text_config=llama,
            image_token_index=id_of(IMAGE),
            vision_feature_layer=-2,
            tie_word_embeddings=False,
        )
    if kind == "llava_next":
        return LlavaNextConfig(
            vision_config=clip,
            text_config=llama,
            image_token_index=id_of(IMAGE),
            vision_feature_layer=-2,
            image_grid_pinpoints=PINPOINTS,
            tie_word_embeddings=False,
        )
    if kind.startswith("qwen"):
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
        vision = dict(
            depth=2, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2
        )
        ids = dict(
            image_token_id=id_of(QWEN[1]),
            vision_start_token_id=id_of(QWEN[0]),
            vision_end_token_id=id_of(QWEN[2]),
            video_token_id=id_of(QWEN[3]),
            text_config=text | {"rope_parameters": rope},
        )
        if kind == "qwen2_vl":
            vision |= dict(embed_dim=32, hidden_size=HIDDEN, mlp_ratio=2)
            return Qwen2VLConfig(vision_config=vision, **ids)
        vision |= dict(
            hidden_size=32,
            intermediate_size=64,
            out_hidden_size=HIDDEN,
            window_size=16,
            fullatt_block_indexes=[1],
        )
        return Qwen2_5_VLConfig(vision_config=vision, **ids)
    of = SmolVLMConfig if kind == "smolvlm" else Idefics3Config
    vision = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    return of(
        vision_config=vision,
        text_config=llama,
        image_token_id=id_of(IMAGE),
        scale_factor=2,
        pad_token_id=258,
    )


PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]


def processor_of(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    template = RECIPES[kind].template
    if kind == "llava":
        return LlavaProcessor(
            CLIPImageProcessorPil(
                size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
            ),
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
    if kind == "llava_next":
        return LlavaNextProcessor(
            LlavaNextImageProcessorPil(
                size={"shortest_edge": 24},
                crop_size={"height": 24, "width": 24},
                image_grid_pinpoints=PINPOINTS,
            ),
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
    if kind.startswith("qwen"):
        sizes: dict[str, Any] = dict(
            patch_size=4,
            merge_size=2,
            temporal_patch_size=2,
            size={"shortest_edge": 64, "longest_edge": 2400},
        )
        still = Qwen2VLImageProcessorPil(**sizes)
        if not is_torchvision_available():
            return StillImages(still, tokenizer, chat_template=template)
        from transformers import Qwen2VLVideoProcessor

        video = Qwen2VLVideoProcessor(**sizes)
        return Qwen2_5_VLProcessor(still, tokenizer, video, chat_template=template)
    return Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": 48}, max_image_size={"longest_edge": 16}, do_image_splitting=True
        ),
        tokenizer,
        image_seq_len=4,
        chat_template=template,
    )


def sharp_model(config: Any, seed: int = 0) -> Any:
    """Weights under which a token depends on the rows before it, so that wrong ones would show."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            inner = "language_model" in name or "text_model" in name
            weight.mul_(80.0 if "embed_tokens" in name else 8.0 if inner else 3.0)
    model.generation_config.eos_token_id = None
    return model


def save_checkpoint(kind: str, folder: Path, kv_heads: int = 2) -> Path:
    tokenizer = RECIPES[kind].tokenizer()
    processor = processor_of(kind, tokenizer)
    sharp_model(config_of(kind, tokenizer, kv_heads)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def images(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise images of different sizes: each its own rows."""
    made = []
    for i in range(count):
        width, height = SIZES[(i + seed) % len(SIZES)]
        make = torch.Generator().manual_seed(100 * seed + i)
        values = torch.randint(0, 256, (height, width, 3), generator=make, dtype=torch.uint8)
        made.append(Image.fromarray(values.numpy()))
    return made
