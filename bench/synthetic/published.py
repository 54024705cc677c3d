"""Published speed-ups of other decoders, with the accepted length where it is known.

HiViS is arXiv 2509.23928, ViSpec 2509.15235, Spec-LLaVA 2509.11961.
Accepted lengths count drafted tokens, as everywhere here. Each speed-up is over the authors' own
baseline, with their drafters, prompts and machines, so they cannot be compared row by row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """``accepted_length`` is None where only a speed-up was given."""

    method: str
    model: str
    speedup: float
    accepted_length: float | None
    source: str


_VISPEC = "its README, T = 0"
_HIVIS = PublishedResult("HiViS, up to", "its targets", 2.65, None, "abstract, v1")
_SPEC_LLAVA = "abstract"
_NEXT_7B = (
    PublishedResult("ViSpec, mean", "LLaVA-1.6-7B", 2.58, 2.98, _VISPEC),
    PublishedResult("ViSpec, COCO", "LLaVA-1.6-7B", 3.22, 3.30, _VISPEC),
)
#: By shape. ViSpec gives no LLaVA-1.5; LLaVA-1.6 (Vicuna) has language models of the same sizes.
PUBLISHED: dict[str, tuple[PublishedResult, ...]] = {
    "llava-1.5-7b": (
        _HIVIS,
        *_NEXT_7B,
        PublishedResult("Spec-LLaVA, up to", "LLaVA-1.5-7B", 3.28, None, _SPEC_LLAVA),
    ),
    "llava-1.5-13b": (
        _HIVIS,
        PublishedResult("ViSpec, mean", "LLaVA-1.6-13B", 2.38, 2.89, _VISPEC),
        PublishedResult("ViSpec, COCO", "LLaVA-1.6-13B", 2.82, 3.18, _VISPEC),
        PublishedResult("Spec-LLaVA, up to", "LLaVA-1.5", 3.28, None, _SPEC_LLAVA),
    ),
    "llava-next-7b": (_HIVIS, *_NEXT_7B),
    "qwen2.5-vl-7b": (
        _HIVIS,
        PublishedResult("ViSpec, mean", "Qwen2.5-VL-7B", 1.80, 2.24, _VISPEC),
        PublishedResult("ViSpec, COCO", "Qwen2.5-VL-7B", 1.99, 2.27, _VISPEC),
    ),
}
