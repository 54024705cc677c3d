"""The shared noise: known answers, C++ = torch in every bit, accuracy, and the law it follows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hivis import ops
from hivis.ops import noise

SEEDS = torch.tensor([0, 1, -1, 2**62 + 12345, -(2**63)])
POSITIONS = torch.tensor([0, 7, 2**31 + 5, 2**33 - 2, -3])


@pytest.mark.parametrize(
    "counter, key, words",
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_known_answers(counter: str, key: str, words: str):
    """The vectors published with Random123 for philox4x32, 10 rounds."""

    def parse(text: str) -> Tensor:
        return torch.tensor([int(word, 16) for word in text.split()])

    assert torch.equal(noise.philox4x32(parse(counter), parse(key)), parse(words))


def test_noise_is_made_of_the_stated_words():
    seed, position, vocab = -(2**40) - 3, 2**35 + 9, 11
    words = []
    for v in range(vocab):
        counter = torch.tensor([v // 4, 0, position & 0xFFFFFFFF, position >> 32])
        key = torch.tensor([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF])
        words.append(noise.philox4x32(counter, key)[v % 4])
    expected = noise.gumbel_from_word(torch.stack(words))
    got = noise.gumbel(torch.tensor([seed]), torch.tensor([position]), 1, vocab)
    assert torch.equal(got[0, 0], expected)


@pytest.mark.parametrize("vocab", [1, 3, 4, 63, 64, 65, 1000, 32064])
def test_op_and_torch_agree_in_every_bit(device: torch.device, vocab: int):
    count = 3
    got = ops.shared_noise(SEEDS.to(device), POSITIONS.to(device), count, vocab).cpu()
    expected = noise.gumbel(SEEDS, POSITIONS, count, vocab)
    assert got.shape == (len(SEEDS), count, vocab) and got.dtype == torch.float32
    assert torch.equal(got.view(torch.int32), expected.view(torch.int32))


def test_threads_do_not_matter():
    one = ops.shared_noise(SEEDS, POSITIONS, 2, 40_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(one, ops.shared_noise(SEEDS, POSITIONS, 2, 40_000))
    finally:
        torch.set_num_threads(threads)


def test_noise_depends_on_position_and_token_only(device: torch.device):
    """Rows shift with the position, and a smaller vocabulary is a prefix."""
    seeds, positions = SEEDS.to(device), POSITIONS.to(device)
    full = ops.shared_noise(seeds, positions, 4, 4096)
    assert torch.equal(ops.shared_noise(seeds, positions + 1, 3, 4096), full[:, 1:])
    assert torch.equal(ops.shared_noise(seeds, positions, 4, 100), full[..., :100])
    alone = torch.cat(
        [
            ops.shared_noise(seeds[b : b + 1], positions[b : b + 1], 4, 4096)
            for b in range(len(seeds))
        ]
    )
    assert torch.equal(alone, full)
    assert ops.shared_noise(seeds, positions, 0, 5).shape == (len(seeds), 0, 5)
    assert ops.shared_noise(seeds[:0], positions[:0], 2, 5).shape == (0, 2, 5)


def ulps(got: Tensor, exact: Tensor) -> float:
    """Largest error in units in the last place of the exact value."""
    rounded = exact.float().abs()
    ulp = torch.nextafter(rounded, torch.tensor(torch.inf)) - rounded
    return ((got.double() - exact).abs() / ulp.double()).max().item()


def test_log_is_accurate():
    x = torch.cat((torch.logspace(-33, 5, 400_001, base=2), torch.linspace(0.5, 2, 400_001)))
    x = x[x != 1]
    assert ulps(noise.log_f32(x), x.double().log()) < 1
    assert noise.log_f32(torch.ones(1)) == 0


def test_exponential_is_accurate_down_to_the_smallest_u():
    """Winners of a draw have a small u: there -log(1 - u) must not lose its digits."""
    u = torch.cat((torch.logspace(-33, -1, 400_001, base=2), torch.linspace(0.5, 1, 400_001)))
    u = u.clamp(max=1 - 2**-24)
    assert ulps(noise.neg_log1m_f32(u), -torch.log1p(-u.double())) < 3


def test_gumbel_end_to_end():
    """g of a word against f64: small words (the tail that wins), all sizes, the last one."""
    words = torch.cat((torch.arange(1 << 16), torch.logspace(16, 31.9, 200_001, base=2).long()))
    exact = -torch.log(-torch.log1p(-((words.double() + 0.5) * 2.0**-32)))
    error = (noise.gumbel_from_word(words).double() - exact).abs()
    assert error.max() < 2e-6
    ends = noise.gumbel_from_word(torch.tensor([0, 2**32 - 1]))
    assert ends.isfinite().all() and ends[0] < 22.875
    assert abs(ends[0].item() - 33 * math.log(2)) < 2e-6
    assert (noise.gumbel_from_word(torch.arange(1 << 20)).diff() <= 0).all()


# --- The law


def chi_square_excess(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's statistic, in standard deviations from its mean."""
    expected = probabilities.double() * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def draw_counts(logits: Tensor, seed: int, draws: int) -> Tensor:
    """How often each token is the perturbed argmax, over successive positions."""
    counts = torch.zeros(logits.numel(), dtype=torch.int64)
    step = 1 << 17
    for first in range(0, draws, step):
        g = ops.shared_noise(torch.tensor([seed]), torch.tensor([first]), step, logits.numel())[0]
        counts += torch.bincount((logits + g).argmax(-1), minlength=logits.numel())
    return counts


def test_perturbed_argmax_samples_the_softmax():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 1.5
    for temperature in (0.6, 1.0, 2.0):
        counts = draw_counts(logits / temperature, seed=11, draws=1 << 20)
        assert abs(chi_square_excess(counts, (logits.double() / temperature).softmax(0))) < 4


def test_rare_tokens_are_drawn_as_often_as_they_should_be():
    p = torch.full((64,), 1e-5, dtype=torch.float64)
    p[17] = 1 - p[1:].sum()
    counts = draw_counts(p.log().float(), seed=5, draws=1 << 20)
    assert abs(chi_square_excess(counts, p)) < 4
    rare, expected = (1 << 20) - counts[17].item(), 63e-5 * (1 << 20)
    assert abs(rare - expected) < 4 * math.sqrt(expected)


def test_positions_seeds_and_tokens_are_uncorrelated():
    n = 1 << 16
    a = ops.shared_noise(torch.tensor([3, 4]), torch.tensor([0, 0]), 2, n)
    rows = torch.cat((a.flatten(0, 1), a[:1, 0].roll(1, -1), a[:1, 0].roll(4, -1)))
    off_diagonal = torch.corrcoef(rows).fill_diagonal_(0)
    assert off_diagonal.abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seed=torch.tensor([[1]])), "seed: wanted 1 dimensions, got 2"),
        (dict(seed=torch.tensor([1], dtype=torch.int32)), "seed: wanted Long, got Int"),
        (dict(position=torch.tensor([1, 2])), r"position: wanted shape \[1\], got \[2\]"),
        (dict(position=torch.tensor([1.0])), "position: wanted Long, got Float"),
        (dict(count=-1), "count: wanted 0 or more, got -1"),
        (dict(vocab=0), "vocab: wanted 1..1048576, got 0"),
        (dict(vocab=2**20 + 1), "vocab: wanted 1..1048576, got 1048577"),
    ],
)
def test_bad_input_is_named(device: torch.device, change: dict, message: str):
    good = dict(seed=torch.tensor([1]), position=torch.tensor([0]), count=1, vocab=8)
    given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in (good | change).items()}
    with pytest.raises(RuntimeError, match=message):
        ops.shared_noise(**given)


def test_opcheck(device: torch.device):
    arguments = (SEEDS.to(device), POSITIONS.to(device), 2, 9)
    torch.library.opcheck(torch.ops.hivis.shared_noise.default, arguments)
