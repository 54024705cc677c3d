"""Weights ``[N, K]`` as codes of 8 or 4 bits; ``quantized_linear.py`` multiplies with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hivis.errors import HivisError

#: Bits and the largest group of inputs, by the name of the format; "full" is the target's dtype.
FORMATS = {
    "full": (0, 0),
    "int8": (8, 0),
    "int4": (4, 64),
    "int4-32": (4, 32),
    "int4-128": (4, 128),
}
#: Outputs that are quantized at a time: what is needed in fp32 meanwhile stays small.
OUTPUTS = 4096


def format_of(weights: object) -> tuple[int, int]:
    """Bits and largest group of a format; HivisError if there is none of that name."""
    if not isinstance(weights, str) or weights not in FORMATS:
        raise HivisError(f"drafter weights: wanted one of {', '.join(FORMATS)}, got {weights!r}")
    return FORMATS[weights]


def group_of(inputs: int, most: int) -> int:
    """The largest group up to ``most`` that ``inputs`` can be cut into."""
    group = most
    while group >= 32:
        if inputs % group == 0:
            return group
        group //= 2
    raise HivisError(f"drafter weights: wanted int8 for a matrix of {inputs} inputs, got int4")


@dataclass(frozen=True)
class Codes8:
    """``w = scale c``: ``codes`` ``[N, K]`` int8, ``scale`` ``[N]`` bfloat16."""

    codes: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Codes4:
    """``w = scale (c - 8) + zero``.

    ``codes`` ``[N, K]`` uint8, ``scale`` and ``zero`` ``[N, K / group]`` bfloat16.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]


def quantize_8(weight: Tensor) -> Codes8:
    """Nearest codes; an error is at most half a scale."""
    codes, scales = [], []
    for part in weight.split(OUTPUTS):
        part = part.float()
        # The scale of zeros alone could be anything but 0.
        scale = (part.abs().amax(1) / 127).clamp(min=1e-30).bfloat16()
        codes.append((part / scale.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8))
        scales.append(scale)
    return Codes8(torch.cat(codes), torch.cat(scales))


def quantize_4(weight: Tensor, group: int) -> Codes4:
    """Nearest codes between a group's least and largest weight.

    An error is at most half a scale, or what rounding scale and zero takes off the ends of the
    range: ``2^-8 (|zero| + 8 scale)``.
    """
    codes, scales, zeros = [], [], []
    for part in weight.split(OUTPUTS):
        part = part.float().unflatten(1, (-1, group))
        low, high = part.aminmax(dim=2)
        scale = ((high - low) / 15).clamp(min=1e-30).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()
        steps = (part - zero.float().unsqueeze(2)) / scale.float().unsqueeze(2)
        codes.append((steps.round() + 8).clamp(0, 15).to(torch.uint8).flatten(1))
        scales.append(scale)
        zeros.append(zero)
    return Codes4(torch.cat(codes), torch.cat(scales), torch.cat(zeros))


def pairs_of(codes: Tensor) -> Tensor:
    """``[N, K / 2]``: a byte holds the codes of two inputs, of the even one in its high half."""
    return (codes[:, ::2] << 4) | codes[:, 1::2]


def pack_4(codes: Tensor) -> Tensor:
    """``[N, K]`` uint8 codes as the int4 product of their device wants them."""
    if codes.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    tiles = next(tiles for tiles in (8, 4, 2) if codes.shape[1] % (16 * tiles) == 0)
    return torch.ops.aten._convert_weight_to_int4pack(pairs_of(codes), tiles)
