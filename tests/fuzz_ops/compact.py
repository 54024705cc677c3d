"""Cases of kv_compact_."""

from __future__ import annotations

from random import Random

import torch

from hivis.ops import reference
from tests.fuzz_ops.arena import Slots, extent, hostile
from tests.fuzz_ops.case import Case, spoil_tensor

NAMES = ("kv", "kv_len", "path", "path_len")
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)
LOW, HIGH = -(1 << 31), (1 << 31) - 1


def i32(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def case(random: Random, slots: Slots) -> Case:
    layers, batch = random.choice((0, 1, 1, 2, 3)), random.choice((0, 1, 1, 1, 2, 3))
    heads, rows = random.choice((0, 1, 1, 2, 3)), random.choice((0, 1, 2, 5, 9, 17, 40))
    dim, most = random.choice((0, 1, 1, 3, 5, 8, 16, 33, 64)), random.choice((0, 1, 1, 2, 3, 6, 12))
    dtype = random.choice(DTYPES)
    shape = (layers, 2, batch, heads, rows, dim)
    strides = hostile(random, shape)
    size = torch.empty((), dtype=dtype).element_size()
    # Any bytes, NaN of every kind among them; of bool only those that it has.
    high = 2 if dtype == torch.bool else 256
    flat = torch.randint(high, (extent(shape, strides) * size,), dtype=torch.uint8)
    kv = slots.place(random, "kv", flat.view(dtype), shape, strides)

    lengths, counts, paths = [], [], []
    for _ in range(batch):
        length = random.randint(0, rows)
        count = random.randint(0, min(most, rows - length))
        path = sorted(random.sample(range(rows - length), count))
        if random.random() < 0.5:
            path = list(range(count))
        lengths.append(length)
        counts.append(count)
        paths.append(path + [random.choice((0, -7, LOW, HIGH)) for _ in range(most - count)])
    made = {
        "kv_len": i32(lengths),
        "path": i32(paths).reshape(batch, most),
        "path_len": i32(counts),
    }
    args = [kv, *(slots.put(random, name, made[name]) for name in NAMES[1:])]

    def check(result: object) -> str | None:
        whole, wanted = slots.used["kv"].twin(kv)
        whole_len, wanted_len = slots.used["kv_len"].twin(args[1])
        # Through integers of the same size: indexing knows all of these.
        plain = wanted.view(
            torch.int64
            if size == 8
            else torch.int8
            if size == 1
            else torch.int16
            if size == 2
            else torch.int32
        )
        reference.kv_compact_(plain, wanted_len, args[2], args[3])
        if result is not None:
            return f"returned {result}"
        if not torch.equal(slots.used["kv_len"].region, whole_len):
            return f"kv_len: wanted {wanted_len.tolist()}, got {args[1].tolist()}"
        if not torch.equal(slots.used["kv"].region, whole):
            return "other bytes in or around the slab than the oracle's"
        return None

    made_case = Case("kv_compact_", NAMES, args, check, outputs=frozenset(("kv", "kv_len")))
    if random.random() < 0.35:
        while not _spoil(made_case, random):
            pass
    return made_case


def _spoil(case: Case, random: Random) -> bool:
    kv, kv_len, path, path_len = case.args
    rows, (batch, most) = kv.shape[4], path.shape
    how = random.choice(("tensor", "tensor", "value", "value", "path", "overlap", "alias"))
    if how == "tensor":
        name = random.choice(NAMES)
        dims = {"kv": (1, 2), "kv_len": (0,), "path": (0,), "path_len": (0,)}[name]
        return spoil_tensor(case, random, name, dims, free_dtype=name == "kv")
    if how == "value":
        if not batch:
            return False
        name, bad = random.choice(
            (("kv_len", (-1, rows + 1, LOW, HIGH)), ("path_len", (-1, most + 1, LOW, HIGH)))
        )
        values, place = case.get(name), random.randrange(batch)
        values[place] = random.choice(bad)
        case.spoil(name, values, f"{name}[{place}] = {int(values[place])}")
        return True
    if how == "path":
        used = [(b, i) for b in range(batch) for i in range(int(path_len[b]))]
        if not used:
            return False
        b, i = random.choice(used)
        before = int(path[b, i - 1]) if i else -1
        path[b, i] = random.choice((before, LOW, HIGH, rows - int(kv_len[b]), -1))
        case.spoil("path", path, f"path[{b}, {i}] = {int(path[b, i])} of {path.tolist()}")
        return True
    if how == "overlap":
        wide = [dim for dim in range(5) if kv.shape[dim] > 1]
        if not wide or 0 in kv.shape:
            return False
        strides, dim = list(kv.stride()), random.choice(wide)
        # A row or more that is shared: of no length, or shorter than what lies within.
        strides[dim] = random.choice((0, kv.shape[5] - 1)) if dim == 4 else 0
        case.spoil("kv", kv.as_strided(kv.shape, strides), f"kv with strides {strides}")
        return True
    # An argument that lies in the slab, whose bytes are about to move.
    spare = torch.zeros((1, 2, max(batch, 1), 1, max(rows, 1), 4), dtype=torch.int32)
    if not batch or not most or rows < most:
        return False
    case.spoil("kv", spare[:, :, :batch, :, :rows], "")
    name = random.choice(NAMES[1:])
    inside = spare.flatten()[: case.get(name).numel()].view(case.get(name).shape)
    case.spoil(name, inside, f"{name} within kv")
    return True
