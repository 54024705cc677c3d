"""tools/kernel_gate.py: what it makes of ptxas reports and budgets, and a run on tiny kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import kernel_gate, ptxas
from tools.ptxas import Budget

FOLDED = "_ZN5hivis4cuda46_GLOBAL__N__6b7c9c09_13_kv_compact_cu_836b3a2d"
KERNEL = FOLDED + "17kv_compact_kernelI5uint4EEvNS0_15KvCompactParamsE"
PLAIN = "_Z12plain_kernelPfi"
HELPER = "_ZN5hivis4cuda6helperEPfi"


def report(
    name: str = KERNEL,
    registers: int = 40,
    stack: int = 0,
    stores: int = 0,
    loads: int = 0,
    used: str = ", 480 bytes cmem[0]",
    arch: str = "sm_80",
) -> str:
    return (
        f"ptxas info    : 0 bytes gmem\n"
        f"ptxas info    : Compiling entry function '{name}' for '{arch}'\n"
        f"ptxas info    : Function properties for {name}\n"
        f"    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 1 barriers{used}\n"
        f"ptxas info    : Compile time = 18.247 ms\n"
    )


def function_report(name: str = HELPER, stack: int = 0, stores: int = 0) -> str:
    return (
        f"ptxas info    : Function properties for {name}\n"
        f"    {stack} bytes stack frame, {stores} bytes spill stores, {stores} bytes spill loads\n"
    )


def judge(text: str, **budgets: Budget) -> list[str]:
    return ptxas.violations(ptxas.parse_report(text), budgets)


# --- names


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        (KERNEL, "kv_compact_kernel"),
        (PLAIN, "plain_kernel"),
        ("extern_c_kernel", "extern_c_kernel"),
        ("_ZN1a1b10big_kernelINS_4Bf16ELi16ELb1EEEvPfi", "big_kernel"),
        ("_ZN5hivis3runILi3EEEvv", "run"),
    ],
)
def test_the_plain_name_needs_no_demangler(mangled, name):
    assert ptxas.plain_name(mangled)[0] == name


def test_template_arguments_are_readable():
    readable = (
        "void hivis::cuda::(anonymous namespace)::big_kernel<hivis::cuda::Bf16, 16, true, "
        "hivis::cuda::Pair<int, 2> >(float*, int)"
    )
    mangled = "_ZN5hivis4cuda12_GLOBAL__N_110big_kernelINS0_4Bf16ELi16ELb1EEEvPfi"
    assert ptxas.template_arguments(mangled, readable) == "Bf16, 16, true, Pair<int, 2>"
    assert ptxas.template_arguments(PLAIN, "plain_kernel(float*, int)") == ""


def test_without_a_demangler_arguments_stay_mangled(monkeypatch):
    monkeypatch.setattr(ptxas.shutil, "which", lambda name: None)
    (usage,) = ptxas.parse_report(report())
    assert (usage.kernel, usage.arguments) == ("kv_compact_kernel", "5uint4")


# --- reports


def test_a_report_is_read():
    first, second = ptxas.parse_report(report() + report(PLAIN, 32, 8, arch="sm_90"))
    assert (first.kernel, first.arch, first.registers, first.stack) == (
        "kv_compact_kernel",
        "sm_80",
        40,
        0,
    )
    assert first.is_kernel and first.shared == 0
    assert (second.name, second.arch, second.registers, second.stack) == (
        "plain_kernel",
        "sm_90",
        32,
        8,
    )


def test_a_report_in_another_format_is_no_pass():
    with pytest.raises(ValueError, match="wanted the stack frame"):
        ptxas.parse_report(report().replace("stack frame", "frame"))
    with pytest.raises(ValueError, match="wanted the registers"):
        ptxas.parse_report(report().replace("registers", "regs"))


def test_within_the_budget():
    assert judge(report(), kv_compact_kernel=Budget(40)) == []
    assert judge(report(stack=16), kv_compact_kernel=Budget(40, 16)) == []


def test_a_spill_fails_whatever_the_budget():
    (line,) = judge(report(stack=64, stores=8, loads=12), kv_compact_kernel=Budget(255, 0))
    assert "kv_compact_kernel" in line and "sm_80" in line
    assert "wanted no spills, got 8 bytes stored and 12 loaded" in line


def test_registers_over_the_budget():
    (line,) = judge(report(), kv_compact_kernel=Budget(39))
    assert line.endswith("wanted registers <= 39, got 40")


def test_a_stack_frame_that_is_not_declared():
    (line,) = judge(report(stack=24), kv_compact_kernel=Budget(40))
    assert line.endswith("wanted stack <= 0 bytes, got 24")


def test_static_shared_memory():
    (line,) = judge(report(used=", 16 bytes smem, 400 bytes cmem[0]"), kv_compact_kernel=Budget(40))
    assert line.endswith("wanted dynamic shared memory alone, got 16 static bytes")


def test_a_kernel_without_a_budget():
    (line,) = judge(report() + report(arch="sm_90"))
    assert line.startswith("kv_compact_kernel: wanted a line '// budget: kv_compact_kernel:")


def test_a_budget_of_an_unknown_kernel():
    usages = ptxas.parse_report(report())
    budgets = {"kv_compact_kernel": Budget(40), "gone_kernel": Budget(40)}
    assert ptxas.unknown(usages, budgets) == [
        "gone_kernel: wanted a kernel of this name for its budget, got none"
    ]


def test_functions_that_were_not_inlined():
    good = report() + function_report()
    assert judge(good, kv_compact_kernel=Budget(40)) == []
    (line,) = judge(report() + function_report(stores=8), kv_compact_kernel=Budget(40))
    assert line.startswith("helper") and "spills" in line
    (line,) = judge(report() + function_report(stack=8), kv_compact_kernel=Budget(40))
    assert line.startswith("helper") and "stack <= 0" in line


# --- budgets


def test_budgets_are_read():
    budgets, problems = ptxas.parse_budgets(
        {
            "a.cu": "// budget: a_kernel: registers <= 168\ncode\n  // budget: b_kernel: "
            "registers <= 40, stack <= 16\n// budgets are elsewhere\n"
        }
    )
    assert budgets == {"a_kernel": Budget(168), "b_kernel": Budget(40, 16)}
    assert problems == []


def test_a_budget_of_some_instantiations():
    budgets, problems = ptxas.parse_budgets(
        {
            "a.cu": "// budget: a_kernel<T<*, 64>>: registers <= 168\n"
            "// budget: a_kernel<T<*, 128>>: registers <= 40\n"
        }
    )
    assert not problems

    def usage(arguments: str, registers: int) -> ptxas.Usage:
        return ptxas.Usage("a_kernel", arguments, "sm_80", True, registers, 0, 0, 0, 0)

    small, large, other = usage("T<X, 64>", 168), usage("T<Y, 128>", 41), usage("T<X, 96>", 1)
    assert ptxas.violations([small], budgets) == []
    assert ptxas.violations([large], budgets) == [
        "a_kernel<T<Y, 128>> sm_80: wanted registers <= 40, got 41"
    ]
    (line,) = ptxas.violations([other], budgets)
    assert line.startswith("a_kernel<T<X, 96>>: wanted a line '// budget: a_kernel<T<X, 96>>:")
    assert len(ptxas.unknown([small], budgets)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "// budget: a_kernel",
        "// budget: a_kernel: registers < 40",
        "// budget a: registers <= 4",
        "// budget: a_kernel: registers <= 40, spills <= 8",
    ],
)
def test_a_budget_that_cannot_be_read_is_a_problem(line):
    budgets, problems = ptxas.parse_budgets({"a.cu": f"{line}\n"})
    assert budgets == {} and len(problems) == 1
    assert problems[0].startswith("a.cu: wanted") and line in problems[0]


def test_two_budgets_of_one_kernel_are_a_problem():
    line = "// budget: a_kernel: registers <= 40\n"
    _, problems = ptxas.parse_budgets({"a.cu": line, "a.h": line})
    assert problems == ["a.h: wanted one budget for a_kernel, got a second one"]


# --- the gate itself


TINY = """
// budget: tiny_kernel: registers <= 32
template <class T>
__global__ void tiny_kernel(T* x) { x[threadIdx.x] += 1; }
template __global__ void tiny_kernel<float>(float*);
"""
SPILLING = """
// budget: spill_kernel: registers <= 32
__global__ void __launch_bounds__(1024, 2) spill_kernel(float* x, int n) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; i++) a[i] = x[i * n + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) x[i * n + threadIdx.x] = a[63 - i] + a[i];
}
"""
BROKEN = "__global__ void broken_kernel(float* x) { int unused; x[0] = missing; }\n"

needs_nvcc = pytest.mark.skipif(kernel_gate.find_nvcc() is None, reason="there is no nvcc")


@needs_nvcc
def test_a_tiny_kernel_passes_once_compiled_twice_kept(tmp_path: Path, capsys):
    source, out = tmp_path / "tiny.cu", tmp_path / "out.json"
    source.write_text(TINY)
    arguments = [str(source), "--build", str(tmp_path / "build"), "--json", str(out)]
    assert kernel_gate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "0 of 2 compilations kept" in printed and "all within their budgets" in printed
    kernels = json.loads(out.read_text())["kernels"]
    assert {kernel["arch"] for kernel in kernels} == {"sm_80", "sm_90"}
    assert all(kernel["kernel"] == "tiny_kernel" for kernel in kernels)

    assert kernel_gate.main(arguments) == 0
    assert "2 of 2 compilations kept" in capsys.readouterr().out
    source.write_text(TINY.replace("<= 32", "<= 1"))
    assert kernel_gate.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "0 of 2 compilations kept" in printed
    assert "tiny_kernel" in printed and "wanted registers <= 1, got" in printed


@needs_nvcc
def test_spills_and_errors_come_as_lines(tmp_path: Path, capsys):
    for name, text in (("spill", SPILLING), ("broken", BROKEN)):
        (tmp_path / f"{name}.cu").write_text(text)
    files = [str(path) for path in sorted(tmp_path.glob("*.cu"))]
    build = str(tmp_path / "build")
    assert kernel_gate.main([*files, "--build", build, "--arch", "sm_80"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (error,) = [line for line in lines if line.startswith("broken.cu sm_80: nvcc failed:")]
    assert "missing" in error
    (spill,) = [line for line in lines if "wanted no spills" in line]
    assert spill.startswith("spill_kernel sm_80")
    assert not any("spill.cu" in line for line in lines)


def test_a_file_depends_on_the_headers_it_includes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kernel_gate, "CSRC", tmp_path)
    for name, text in {
        "cuda/x.cu": '#include "cuda/x.h"\n#include <cuda_runtime.h>\n',
        "cuda/x.h": '#include "core/y.h"\n#include "nowhere.h"\n',
        "core/y.h": "",
        "cuda/z.h": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = kernel_gate.dependencies(tmp_path / "cuda/x.cu")
    assert [path.name for path in found] == ["y.h", "x.cu", "x.h"]


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(kernel_gate, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        kernel_gate.main([])
    assert stopped.value.code == 2 and "wanted nvcc" in capsys.readouterr().err
