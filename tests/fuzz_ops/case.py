"""One call of an op, what is known of its arguments, and whether what came of it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from hivis import ops
from tests.fuzz_ops.arena import Slots, dense, extent

#: What the ops say of bad input: one line with name, wanted and got.
ONE_LINE = re.compile(r"[a-z_]+(\[[0-9, ]+\])?: wanted [^\n]+, got [^\n]+")
#: Arguments that may be views with gaps; the last dimension's elements lie together all the same.
VIEWS = ("q", "k", "v", "kv", "logits", "output")
#: Of the dtypes that no argument may have, or not this one.
WRONG_DTYPES = (
    torch.float64,
    torch.int16,
    torch.bool,
    torch.complex64,
    torch.uint8,
    torch.int64,
    torch.int32,
    torch.float32,
    torch.bfloat16,
)


@dataclass
class Case:
    """A call, and how to judge it.

    Attributes:
        check: what is wrong with the result of a valid call, None if nothing is.
        outputs: arguments that the op writes to; ``check`` looks at their memory.
        spoiled: what makes the call invalid, "" if it is valid.
        ours: whether the op itself has to find that, in its own words; torch may otherwise.
    """

    op: str
    names: Sequence[str]
    args: list[Any]
    check: Callable[[Any], str | None]
    outputs: frozenset[str] = frozenset()
    spoiled: str = ""
    ours: bool = True

    def spoil(self, name: str, value: Any, what: str, ours: bool = True) -> None:
        self.replace(name, value)
        self.spoiled, self.ours = what, ours

    def replace(self, name: str, value: Any) -> None:
        self.args[self.names.index(name)] = value

    def get(self, name: str) -> Any:
        return self.args[self.names.index(name)]


def judge(case: Case, slots: Slots, meta: bool = False) -> str | None:
    """Run the op: what is wrong with what it did, None if nothing is.

    With ``meta`` its fake, too, which must give the same shapes.
    """
    slots.freeze()
    try:
        result = getattr(ops, case.op)(*case.args)
    except (RuntimeError, TypeError) as error:
        wrong = _refused(case, error)
        written: frozenset[str] = frozenset()
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    else:
        wrong = f"took bad arguments: {case.spoiled}" if case.spoiled else case.check(result)
        if wrong is None and meta:
            wrong = _compare_meta(case, result)
        written = case.outputs
    if wrong is None:
        changed = [
            name
            for name, arena in slots.used.items()
            if name not in written and not arena.unchanged()
        ]
        if changed:
            wrong = f"memory in or around {', '.join(changed)} has changed"
    return wrong


def _compare_meta(case: Case, result: Any) -> str | None:
    args = [a.to("meta") if isinstance(a, Tensor) else a for a in case.args]
    faked = getattr(ops, case.op)(*args)
    for real, fake in zip(
        *([t] if isinstance(t, Tensor) else t or () for t in (result, faked)), strict=True
    ):
        if (fake.shape, fake.dtype, fake.stride()) != (real.shape, real.dtype, real.stride()):
            return f"fake of {fake.dtype} {fake.shape}, wanted {real.dtype} {real.shape}"
    return None


def _refused(case: Case, error: Exception) -> str | None:
    if not case.spoiled:
        return f"refused good arguments: {error}"
    if case.ours and not ONE_LINE.fullmatch(str(error)):
        return f"{case.spoiled}: wanted one line of name, wanted and got, got: {error}"
    return None


def dress(case: Case, random: Random) -> None:
    """Give a good case an argument that is out of the ordinary, and as good."""
    name = random.choice(case.names)
    tensor = case.get(name)
    if not isinstance(tensor, Tensor) or name in case.outputs:
        return
    how = random.choice(("gradient", "inference", "negated", "parameter"))
    if how == "gradient" and tensor.is_floating_point():
        case.replace(name, tensor.requires_grad_())
    elif how == "inference":
        with torch.inference_mode():
            case.replace(name, tensor.clone(memory_format=torch.contiguous_format))
    elif how == "negated" and tensor.is_contiguous():
        tensor.neg_()  # back through a view that says so in a flag
        case.replace(name, torch._neg_view(tensor))
    elif how == "parameter":
        case.replace(name, torch.nn.Parameter(tensor, requires_grad=False))


# --- Ways to spoil any argument that is a tensor


def spoil_tensor(
    case: Case, random: Random, name: str, dims: Sequence[int], free_dtype: bool = False
) -> bool:
    """Make the tensor ``name`` wrong in one way; False if that way does not fit it.

    Args:
        dims: dimensions that do not go with other sizes than they have.
        free_dtype: any dtype will do, none is wrong.
    """
    tensor = case.get(name)
    how = random.choice(("dtype", "rank", "size", "device", "kind", "layout"))
    if how == "dtype":
        dtype = random.choice(WRONG_DTYPES)
        if free_dtype or dtype == tensor.dtype:
            return False
        # Float types that the op knows may go together with the other arguments' or not.
        if tensor.is_floating_point() and dtype in (torch.float32, torch.bfloat16):
            return False
        case.spoil(name, torch.zeros(tensor.shape, dtype=dtype), f"{name} of {dtype}")
    elif how == "rank":
        changed = (
            tensor.unsqueeze(0)
            if random.random() < 0.5
            else tensor.select(-1, 0)
            if tensor.shape[-1]
            else tensor.unsqueeze(-1)
        )
        case.spoil(name, changed, f"{name} of rank {changed.dim()}")
    elif how == "size":
        if not dims:
            return False
        shape, dim = list(tensor.shape), random.choice(list(dims))
        shape[dim] += random.choice((1, 1, 2, -1 if shape[dim] else 1))
        case.spoil(name, torch.zeros(shape, dtype=tensor.dtype), f"{name} of shape {shape}")
    elif how == "device":
        others = [a for a in case.args if isinstance(a, Tensor) and a is not tensor]
        if not others:
            return False
        case.spoil(name, tensor.to("meta"), f"{name} on the meta device")
    elif how == "kind":
        value = random.choice((None, "tensor", 1.5, [1, 2], {}, tensor.to_sparse))
        value = value() if callable(value) and tensor.dtype != torch.float8_e4m3fn else value
        case.spoil(name, value, f"{name} is {type(value).__name__}", ours=False)
    else:
        return _scatter(case, random, name)
    return True


def _scatter(case: Case, random: Random, name: str) -> bool:
    """Gaps in the last dimension; of an argument that has to be contiguous, in any."""
    tensor = case.get(name)
    dims = [tensor.dim() - 1] if name in VIEWS else list(range(tensor.dim()))
    dim = random.choice(dims)
    if tensor.shape[dim] < 2 or not tensor.numel():
        return False
    strides = dense(tensor.shape)
    strides[dim] = random.choice((0, strides[dim] + 1, strides[dim] * 3))
    spread = torch.zeros(extent(tensor.shape, strides), dtype=tensor.dtype)
    changed = spread.as_strided(tensor.shape, strides)
    case.spoil(name, changed, f"{name} with strides {strides}")
    return True
