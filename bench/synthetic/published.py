"""Speed-ups that others published, with the accepted length where it is known.

HiViS is arXiv 2509.23928, ViSpec 2509.15235, Spec-LLaVA 2509.11961.
Accepted lengths count drafted tokens, as everywhere here. All are over the authors' own baseline,
with their own drafters, prompts and machines: points to look at, not rows of one table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """``accepted_length`` is None where only a speed-up was given."""

    method: str
    model: str
    speedup: float
    accepted_length: float | None
    source: str


_VISPEC = "its README, T = 0"
_HIVIS = Published("HiViS, up to", "its targets", 2.65, None, "abstract, v1")
_SPEC_LLAVA = "abstract"
_NEXT_7B = (
    Published("ViSpec, mean", "LLaVA-1.6-7B", 2.58, 2.98, _VISPEC),
    Published("ViSpec, COCO", "LLaVA-1.6-7B", 3.22, 3.30, _VISPEC),
)
#: By shape. ViSpec gives no LLaVA-1.5; LLaVA-1.6 (Vicuna) has language models of the same sizes.
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "llava-1.5-7b": (
        _HIVIS,
        *_NEXT_7B,
        Published("Spec-LLaVA, up to", "LLaVA-1.5-7B", 3.28, None, _SPEC_LLAVA),
    ),
    "llava-1.5-13b": (
        _HIVIS,
        Published("ViSpec, mean", "LLaVA-1.6-13B", 2.38, 2.89, _VISPEC),
        Published("ViSpec, COCO", "LLaVA-1.6-13B", 2.82, 3.18, _VISPEC),
        Published("Spec-LLaVA, up to", "LLaVA-1.5", 3.28, None, _SPEC_LLAVA),
    ),
    "llava-next-7b": (_HIVIS, *_NEXT_7B),
    "qwen2.5-vl-7b": (
        _HIVIS,
        Published("ViSpec, mean", "Qwen2.5-VL-7B", 1.80, 2.24, _VISPEC),
        Published("ViSpec, COCO", "Qwen2.5-VL-7B", 1.99, 2.27, _VISPEC),
    ),
}
