"""The shared noise in plain torch, bit for bit what csrc/core/gumbel.h computes.

Every emitted token is ``argmax_v(logits[v] / T + g(seed, position, v))`` with standard Gumbel noise
g, which makes it an exact sample of ``softmax(logits / T)``. g is a pure function of the seed, the
token's absolute position and the token id: the drafter, which knows these too, knows the noise.

Bits agree because both sides use nothing but IEEE-754 single additions, subtractions and
multiplications in one stated order (no fused multiply-add), and integers. `hivis.ops.shared_noise`
is the fast way to the same values. This file is the oracle, and runs on any device.

Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_SQRT_HALF_BITS = 0x3F3504F3
_LN2_HIGH = float.fromhex("0x1.62e4p-1")  # 15 significant bits: a small multiple is exact
_LN2_LOW = 1.428606765330187e-06
_LOG_COEFFICIENTS = tuple(
    float.fromhex(c)
    for c in (
        "0x1.555554p-2 -0x1.000226p-2 0x1.99a008p-3 -0x1.547244p-3 "
        "0x1.22da1cp-3 -0x1.0d8544p-3 0x1.055b72p-3 -0x1.38b582p-4"
    ).split()
)


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Four random 32-bit words per counter (Philox4x32-10).

    Args:
        counter: [..., 4] i64, each entry a 32-bit word (0..2^32-1).
        key: [..., 2] i64, likewise; broadcasts against the counter's leading dimensions.

    Returns:
        [..., 4] i64, words 0..2^32-1.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(_ROUNDS):
        # A product may pass 2^63 and wrap; its 64 bits are right all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _LOW, (k1 + _KEY_INCREMENTS[1]) & _LOW
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """k, f with x = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)); x positive and normal."""
    offset = x.view(torch.int32) - _SQRT_HALF_BITS
    mantissa = ((offset & 0x007FFFFF) + _SQRT_HALF_BITS).view(torch.float32)
    return (offset >> 23).to(torch.float32), mantissa - 1.0


def _log_reduced(k: Tensor, f: Tensor) -> Tensor:
    """log(2^k (1 + f)), one rounding after another in the order of csrc/core/fastmath.h."""
    c = _LOG_COEFFICIENTS
    f2 = f * f
    f4 = f2 * f2
    q01, q23 = f * c[1] + c[0], f * c[3] + c[2]
    q45, q67 = f * c[5] + c[4], f * c[7] + c[6]
    q = (q01 + q23 * f2) + (q45 + q67 * f2) * f4
    tail = k * _LN2_LOW + (f2 * f) * q
    return k * _LN2_HIGH + (f + (tail - f2 * 0.5))


def log_f32(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal f32 values, within one unit in the last place."""
    return _log_reduced(*_split(x))


def neg_log1m_f32(u: Tensor) -> Tensor:
    """-log(1 - u) for f32 values u in (0, 1 - 2^-24], accurate for the smallest u too."""
    k, f = _split(1.0 - u)
    return -_log_reduced(k, torch.where(k == 0, -u, f))


def gumbel_from_word(word: Tensor) -> Tensor:
    """Random 32-bit words (i64) to standard Gumbel variates (f32).

    ``u = (word + 1/2) / 2^32``, ``g = -log(-log(1 - u))``: the words that win a draw are small,
    where fp32 resolves u best. g lies in (-2.82, 22.88).
    """
    u = word.to(torch.float32) * 2.0**-32 + 2.0**-33
    return -log_f32(neg_log1m_f32(u.clamp(max=1.0 - 2.0**-24)))


def gumbel(seed: Tensor, position: Tensor, count: int, vocab: int) -> Tensor:
    """Shared noise of `count` successive positions.

    Args:
        seed: [B] i64.
        position: [B] i64, absolute position of the first row's token.
        count: how many positions.
        vocab: V. A smaller V gives a prefix of the same values.

    Returns:
        [B, count, V] f32, ``g(seed, position + i, v)``.
    """
    device = seed.device
    groups = torch.arange((vocab + 3) // 4, device=device)
    at = position[:, None] + torch.arange(count, device=device)
    shape = (seed.numel(), count, groups.numel())
    counter = torch.stack(
        (
            groups.expand(shape),
            torch.zeros((), dtype=torch.int64, device=device).expand(shape),
            (at & _LOW)[..., None].expand(shape),
            ((at >> 32) & _LOW)[..., None].expand(shape),
        ),
        dim=-1,
    )
    key = torch.stack((seed & _LOW, (seed >> 32) & _LOW), dim=-1)[:, None, None, :]
    words = philox4x32(counter, key.expand(*shape, 2))
    return gumbel_from_word(words.flatten(-2)[..., :vocab])
