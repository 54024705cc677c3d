"""Quantized weights: how far codes are from what they stand for, and products with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hivis.drafters import quantized_linear as quantized
from hivis.drafters.quantize import (
    FORMATS,
    Codes4,
    Codes8,
    group_of,
    pairs_of,
    quantize_4,
    quantize_8,
)
from hivis.drafters.quantized_linear import (
    Dense,
    Dequantized4,
    Dequantized8,
    Packed4,
    Packed8,
    Packed8InPlanes,
    matrix,
)
from hivis.errors import HivisError

pytestmark = pytest.mark.whole_models
QUANTIZED = [name for name in FORMATS if name != "full"]
#: Relative error of rounding to bfloat16.
ROUNDING = 2.0**-9


def hostile(outputs: int, inputs: int) -> Tensor:
    """Weights of many sizes, with outliers, constant rows, rows of zeros and of one sign."""
    make = torch.Generator().manual_seed(outputs * inputs)
    weight = torch.randn(outputs, inputs, generator=make) * 0.05
    weight *= torch.logspace(-6, 3, outputs).unsqueeze(1)
    weight[0] = 0
    weight[1, :] = 0.3
    weight[2] = -weight[2].abs()
    weight[3, 5] = 40.0
    weight[4] += 7.0
    return weight


def worth(codes: Codes8 | Codes4) -> tuple[Tensor, Tensor]:
    """What the codes stand for, and the sum of its parts' sizes, in fp64."""
    if isinstance(codes, Codes8):
        exact = codes.codes.double() * codes.scale.double().unsqueeze(1)
        return exact, exact.abs()
    step = (codes.codes.double() - 8).unflatten(1, (-1, codes.group))
    step, zero = step * codes.scale.double().unsqueeze(2), codes.zero.double().unsqueeze(2)
    return (step + zero).flatten(1), (step.abs() + zero.abs()).flatten(1)


def off_by(codes: Codes8 | Codes4) -> Tensor:
    """How far each weight may be from its code: half a scale, or what rounding took off the ends.

    0.01 % of a scale is for the division in fp32.
    """
    scale = codes.scale.double()
    if isinstance(codes, Codes8):
        return 0.5001 * scale.unsqueeze(1).expand(codes.codes.shape)
    ends = 2 * ROUNDING * (codes.zero.double().abs() + 8 * scale)
    return torch.maximum(0.5001 * scale, ends).repeat_interleave(codes.group, 1)


@pytest.mark.parametrize("shape", [(211, 96), (16, 16), (9, 704)])
def test_int8_codes_are_within_half_a_scale(shape: tuple[int, int]) -> None:
    weight = hostile(*shape)
    codes = quantize_8(weight)
    assert codes.codes.dtype == torch.int8 and codes.scale.dtype == torch.bfloat16
    error = (worth(codes)[0] - weight.double()).abs()
    assert (error <= off_by(codes)).all()
    assert (worth(codes)[0][0] == 0).all()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_codes_are_within_half_a_scale_of_their_group(group: int) -> None:
    weight = hostile(37, 256)
    codes = quantize_4(weight, group)
    assert codes.group == group and codes.codes.max() <= 15
    assert ((worth(codes)[0] - weight.double()).abs() <= off_by(codes)).all()


def test_weights_are_quantized_some_outputs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = hostile(37, 64).bfloat16()
    whole = quantize_8(weight), quantize_4(weight, 32)
    monkeypatch.setattr("hivis.drafters.quantize.OUTPUTS", 10)
    for ours, theirs in zip((quantize_8(weight), quantize_4(weight, 32)), whole, strict=True):
        for name, part in vars(ours).items():
            assert torch.equal(part, vars(theirs)[name])


KINDS = {
    "packed 8": (Packed8, None),
    "dequantized 8": (Dequantized8, None),
    "planes 8": (Packed8InPlanes, None),
    "packed 4": (Packed4, 32),
    "dequantized 4": (Dequantized4, 32),
    "packed 4, groups of 64": (Packed4, 64),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("outputs", [16, 211])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_codes(
    kind: str, outputs: int, rows: int, dtype: torch.dtype, device: torch.device
) -> None:
    """The error is that of bfloat16: of weights, of the sum, of its halves."""
    if device.type == "cuda" and kind == "packed 8":
        pytest.skip("a GPU multiplies int8 in planes")
    make = torch.Generator().manual_seed(rows)
    inputs = 192
    weight = torch.randn(outputs, inputs, generator=make) * 0.3
    weight[5] += 2.0
    make_matrix, group = KINDS[kind]
    codes = quantize_8(weight) if group is None else quantize_4(weight, group)
    on_device = type(codes)(*(tensor.to(device) for tensor in vars(codes).values()))
    made = make_matrix(on_device)
    x = torch.randn(rows, inputs, generator=make).bfloat16()
    bias = torch.randn(outputs, generator=make).bfloat16()
    got = made(x.to(device, dtype), bias.to(device, dtype))
    assert got.dtype == dtype and got.shape == (rows, outputs)
    exact, parts = worth(codes)
    if kind == "planes 8":
        high, low = codes.codes >> 4, codes.codes & 15
        parts = (16 * high.double().abs() + low.double()) * codes.scale.double().unsqueeze(1)
    wanted = x.double() @ exact.T + bias.double()
    sizes = x.double().abs() @ parts.T + bias.double().abs()
    allowed = (4 * ROUNDING + inputs * 2.0**-24) * sizes
    error = (got.cpu().double() - wanted).abs()
    assert (error <= allowed).all(), (error / allowed).max()
    if kind.startswith("dequantized") and dtype == torch.float32:
        assert (error <= inputs * 2.0**-23 * sizes).all(), "nothing is rounded to bfloat16"


@pytest.mark.parametrize("weights", QUANTIZED)
def test_a_product_with_quantized_weights_is_near_that_with_fine_ones(weights: str) -> None:
    """By the scales: every weight is off by half a scale at most, every product by their sum."""
    make = torch.Generator().manual_seed(1)
    weight = torch.randn(80, 256, generator=make) * 0.1
    x = torch.randn(5, 256, generator=make).bfloat16().double()
    bits, most = FORMATS[weights]
    codes = quantize_8(weight) if bits == 8 else quantize_4(weight, most)
    allowed = x.abs() @ (off_by(codes) + 4 * ROUNDING * worth(codes)[1]).T
    got = matrix(weight, weights, torch.float32)(x.float()).double()
    assert ((got - x @ weight.double().T).abs() <= allowed).all()


def test_inputs_of_any_shape() -> None:
    weight = torch.randn(24, 64)
    x = torch.randn(2, 9, 64)
    for weights in QUANTIZED:
        made = matrix(weight, weights, torch.float32)
        whole = made(x)
        assert whole.shape == (2, 9, 24)
        assert torch.equal(made(x[:, -1:]), whole[:, -1:])
        assert torch.equal(made(x[0, 0]), whole[0, 0])


def test_which_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(24, 64)
    made = {name: type(matrix(weight, name, torch.bfloat16)) for name in FORMATS}
    assert made == {
        "full": Dense,
        "int8": Packed8,
        "int4": Packed4,
        "int4-32": Packed4,
        "int4-128": Packed4,
    }
    assert quantized.products(torch.device("cpu")) == {
        "int8": "_weight_int8pack_mm",
        "int4": "_weight_int4pack_mm_for_cpu",
    }
    # Torch's kernel reads its inputs sixteen at a time, past the end of the row if need be.
    assert isinstance(matrix(torch.randn(24, 40), "int8", torch.bfloat16), Dequantized8)
    monkeypatch.setattr(quantized, "has_kernel", lambda bits, device: False)
    assert isinstance(matrix(weight, "int8", torch.bfloat16), Dequantized8)
    assert isinstance(matrix(weight, "int4", torch.bfloat16), Dequantized4)
    assert set(quantized.products(torch.device("cpu")).values()) == {"dequantized"}


def test_a_device_without_a_kernel_is_known() -> None:
    assert not quantized.has_kernel(8, torch.device("meta"))
    if not torch.cuda.is_available():
        assert not quantized.has_kernel(4, torch.device("cuda"))


def test_bytes_are_what_the_format_promises() -> None:
    weight = torch.randn(256, 512)
    sizes = {name: matrix(weight, name, torch.bfloat16).nbytes for name in FORMATS}
    count = weight.numel()
    assert sizes == {
        "full": 2 * count,
        "int8": count + 2 * 256,
        "int4": count // 2 + 4 * count // 64,
        "int4-32": count // 2 + 4 * count // 32,
        "int4-128": count // 2 + 4 * count // 128,
    }
    codes = quantize_8(weight)
    assert Packed8InPlanes(codes).nbytes == count + 2 * 4 * count // 256
    assert Dequantized4(quantize_4(weight, 64)).nbytes == sizes["int4"]


def test_groups() -> None:
    assert [group_of(704, most) for most in (32, 64, 128)] == [32, 64, 64]
    assert group_of(96, 128) == 32
    with pytest.raises(HivisError, match="wanted int8 for a matrix of 48 inputs, got int4"):
        group_of(48, 64)


def test_two_codes_a_byte() -> None:
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert pairs_of(codes).tolist() == [[0x12, 0xF0]]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(HivisError, match="wanted one of full, int8, int4.*got 'int5'"):
        matrix(torch.zeros(16, 16), "int5", torch.float32)
