"""Quantized weights of a drafter: int8 and int4, for products with few rows.

A drafter only guesses, so its precision can change the speed and never the output
(``docs/lossless.md``). A level of a draft tree multiplies a handful of rows with every weight of
the layer and the head: it takes as long as the weights take to stream, and quantized ones have a
half or a quarter of the bytes. Only weights are quantized; inputs are bfloat16, sums are fp32.

- ``int8``: ``w = s c`` with one scale s for each output, c in -127..127.
- ``int4``: ``w = s (c - 8) + z`` with a scale and a zero for each group of 32, 64 or 128 inputs of
  an output, c in 0..15.

Scales and zeros are bfloat16. Torch's own packed products read the codes: on CPUs one each, on
NVIDIA GPUs from sm_80 on the int4 one, for int8 as well, whose codes are two planes of four bits.
Where torch has none, weights are dequantized for every product, which takes less memory and no less
time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.drafters.quantize import (
    Codes4,
    Codes8,
    format_of,
    group_of,
    pack_4,
    pairs_of,
    quantize_4,
    quantize_8,
)

aten = torch.ops.aten

#: Outputs of a packed int4 matrix come in blocks of this many (8 on GPUs).
BLOCK = 16
_KERNELS = {
    ("cpu", 8): "_weight_int8pack_mm",
    ("cpu", 4): "_weight_int4pack_mm_for_cpu",
    ("cuda", 8): "_weight_int4pack_mm",
    ("cuda", 4): "_weight_int4pack_mm",
}


class Matrix(Protocol):
    """A weight ``[N, K]``, however it is stored."""

    @property
    def nbytes(self) -> int:
        """What a product with it reads of it."""
        ...

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[..., N]``: ``x`` ``[..., K]`` times the transpose, plus ``bias`` ``[N]``."""
        ...


def matrix(weight: Tensor, weights: str, dtype: torch.dtype) -> Matrix:
    """``weight`` ``[N, K]``, of any float dtype, stored as ``weights`` says.

    Args:
        weights: a name of ``FORMATS``.
        dtype: of the inputs, and what ``"full"`` stores.

    Raises:
        HivisError: an unknown format, or int4 for a K that is no multiple of 32.
    """
    bits, most = format_of(weights)
    if bits == 0:
        return Dense(weight.to(dtype).contiguous())
    inputs = weight.shape[1]
    packed = has_kernel(bits, weight.device)
    if bits == 8:
        codes = quantize_8(weight)
        if not packed or inputs % (16 if weight.device.type == "cpu" else 32):
            return Dequantized8(codes)
        return Packed8(codes) if weight.device.type == "cpu" else Packed8InPlanes(codes)
    groups = quantize_4(weight, group_of(inputs, most))
    return Packed4(groups) if packed else Dequantized4(groups)


def has_kernel(bits: int, device: torch.device) -> bool:
    """Whether torch has a packed product for codes of ``bits`` on this device."""
    name = _KERNELS.get((device.type, bits))
    if name is None or torch.version.hip is not None:
        return False
    key = device.type.upper()
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key):
        return False
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def products(device: torch.device) -> dict[str, str]:
    """How each format is multiplied with on a device, in words."""
    return {
        f"int{bits}": _KERNELS[device.type, bits] if has_kernel(bits, device) else "dequantized"
        for bits in (8, 4)
    }


class Dense:
    """Weights as they are."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight, bias)


class Packed(ABC):
    """What torch's packed products have in common: bfloat16 rows go in, and come out."""

    def __init__(self, outputs: int, *stored: Tensor) -> None:
        self.outputs, self.stored = outputs, stored

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.stored)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16).contiguous()
        y = self._product(rows).to(x.dtype).view(*x.shape[:-1], self.outputs)
        return y if bias is None else y + bias

    @abstractmethod
    def _product(self, rows: Tensor) -> Tensor:
        """``[M, N]`` of ``rows`` ``[M, K]``, both bfloat16."""


class Packed8(Packed):
    """int8 on a CPU."""

    def __init__(self, weight: Codes8) -> None:
        super().__init__(len(weight.codes), weight.codes, weight.scale)

    def _product(self, rows: Tensor) -> Tensor:
        return aten._weight_int8pack_mm(rows, *self.stored)


class Packed4(Packed):
    """int4."""

    def __init__(self, weight: Codes4) -> None:
        outputs, self.group = len(weight.codes), weight.group
        spare = -outputs % BLOCK
        codes = F.pad(weight.codes, (0, 0, 0, spare))
        table = F.pad(torch.stack([weight.scale, weight.zero], 2), (0, 0, 0, 0, 0, spare))
        super().__init__(outputs, pack_4(codes), table.transpose(0, 1).contiguous())
        self.multiply = (
            aten._weight_int4pack_mm_for_cpu
            if codes.device.type == "cpu"
            else aten._weight_int4pack_mm
        )

    def _product(self, rows: Tensor) -> Tensor:
        packed, table = self.stored
        return self.multiply(rows, packed, self.group, table)[:, : self.outputs]


class Packed8InPlanes(Packed):
    """int8 by an int4 product, for GPUs, where torch's int8 product reads its codes uncoalesced.

    ``c = 16 h + l`` with h in -8..7 and l in 0..15: the planes h and l are the halves of one int4
    matrix of 2 N outputs. The product rounds its weights to bfloat16, as any drafter's would be.
    """

    def __init__(self, weight: Codes8) -> None:
        codes, scale = weight.codes, weight.scale
        high, low = codes >> 4, codes & 15
        groups = codes.shape[1] // group_of(codes.shape[1], 256)
        scales, zero = scale.unsqueeze(1).expand(-1, groups), scale.new_zeros(len(scale), groups)
        self.planes = Packed4(
            Codes4(
                torch.cat([high + 8, low]).to(torch.uint8),
                torch.cat([scales * 16, scales]),
                torch.cat([zero, scales * 8]),
            )
        )
        super().__init__(len(codes), *self.planes.stored)

    def _product(self, rows: Tensor) -> Tensor:
        both = self.planes._product(rows)
        return both[:, : self.outputs] + both[:, self.outputs :]


class Dequantized8:
    """int8 where torch has no packed product."""

    def __init__(self, weight: Codes8) -> None:
        self.weight = weight

    @property
    def nbytes(self) -> int:
        return self.weight.codes.nbytes + self.weight.scale.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight.codes.to(x.dtype)) * self.weight.scale.to(x.dtype)
        return y if bias is None else y + bias


class Dequantized4:
    """int4 where torch has no packed product: two codes a byte, of the even input the high half."""

    def __init__(self, weight: Codes4) -> None:
        self.pairs, self.group = pairs_of(weight.codes), weight.group
        self.scale, self.zero = weight.scale.unsqueeze(2), weight.zero.unsqueeze(2)

    @property
    def nbytes(self) -> int:
        return self.pairs.nbytes + self.scale.nbytes + self.zero.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        codes = torch.stack([self.pairs >> 4, self.pairs & 15], 2).flatten(1)
        grouped = codes.to(x.dtype).unflatten(1, (-1, self.group)) - 8
        weight = torch.addcmul(self.zero.to(x.dtype), grouped, self.scale.to(x.dtype)).flatten(1)
        return F.linear(x, weight, bias)
