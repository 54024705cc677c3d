"""bench/ops: its cases at tiny sizes, its peers against ours, and its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench.common import timing
from bench.common.ceilings import Ceilings
from bench.common.goals import Goal, judge_goal
from bench.common.timing import GraphTime
from bench.ops import __main__ as op_bench
from bench.ops import cuda_cases, cuda_run, growth_cases, peers
from bench.ops.cases import CPU_CASES, CUDA_CASES, Setting
from bench.ops.goals_by_case import GOALS, ModelSizes

ROOT = Path(__file__).resolve().parents[2]
SETTING = Setting(torch.device("cpu"), quick=True, dtypes=[torch.bfloat16])
TINY = ModelSizes("Tiny", layers=2, heads=4, kv_heads=2, vocab=50, dim=16)
TINY_MHA = ModelSizes("Tiny", layers=2, heads=3, kv_heads=3, vocab=50, dim=16)
MACHINE = Ceilings(3000.0, {"torch.bfloat16": 7e5, "torch.float32": 7e4}, 50 * 2**20)


def fixed_times(calls, reset=None, seconds=0.0):
    """A timer that makes every call once and says that ours took 10 us, others 40."""
    times, failures = {}, {}
    for name, sequence in calls.items():
        try:
            if reset is not None:
                reset()
            for call in sequence:
                call()
            times[name] = GraphTime(10.0 if name == "ours" else 40.0, 3.0)
        except Exception as error:
            failures[name] = error
    return times, failures


def tiny_cases(setting: Setting = SETTING):
    yield "tree_attention", cuda_cases.attention_case(setting, TINY, [17], 9)
    yield "tree_attention", cuda_cases.attention_case(setting, TINY_MHA, [5, 30, 0], 5)
    yield "kv_compact_", cuda_cases.compact_case(setting, TINY, [0, 2, 5, 9, 14, 20])
    yield "tree_accept", cuda_cases.accept_case(setting, 50, 9, 0.0, 1.0)
    yield "tree_accept", cuda_cases.accept_case(setting, 50, 9, 1.0, 1.0)
    yield "tree_accept", cuda_cases.accept_case(setting, 50, 9, 1.0, 0.9)


# --- cases and peers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", [TINY, TINY_MHA])
@pytest.mark.parametrize("lengths", [[17], [5, 40]])
def test_every_peer_agrees_with_ours(dtype, model, lengths):
    case = cuda_cases.attention_case(SETTING, model, lengths, 9, dtype)
    errors, failed = cuda_run.compare(case)
    assert failed == {}
    assert set(errors) == set(case.peers) >= {"sdpa"}
    assert ("sdpa_packed" in errors) == (model.heads != model.kv_heads)
    limit = 1e-5 if dtype == torch.float32 else cuda_run.TOLERANCE
    assert max(errors.values()) < limit
    for package in ("flash_attn", "flashinfer"):
        if find_spec(package) is None:
            assert case.skipped[package] == "not installed"


def problem_of(model: ModelSizes, lengths: list[int], nodes: int) -> peers.AttentionProblem:
    """Random inputs whose tree is a chain with two leaves."""
    q = torch.randn(len(lengths), nodes, model.heads, model.dim)
    rows = max(lengths) + nodes
    k, v = torch.randn(2, len(lengths), model.kv_heads, rows, model.dim)
    seen = torch.ones(nodes, nodes).tril().bool().repeat(len(lengths), 1, 1)
    seen[:, -1, -2] = False
    return peers.AttentionProblem(
        q, [k], [v], torch.tensor(lengths, dtype=torch.int32), lengths, seen, 0.25
    )


def result_of(peer: peers.Peer | None) -> Tensor:
    assert peer is not None
    return peer.form(peer.calls[0]())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("lengths", [[17], [3, 40]])
def test_flex_attention_agrees_with_sdpa(lengths):
    problem = problem_of(TINY, lengths, 6)
    wanted = result_of(peers.sdpa(problem))
    torch.testing.assert_close(result_of(peers.flex(problem)), wanted, rtol=1e-4, atol=1e-5)


def install(monkeypatch, name: str, **functions) -> None:
    """A stand-in for a package that is not installed here."""
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(peers, "find_spec", lambda wanted: wanted if wanted == name else None)


def test_flash_attn_and_the_tree_are_merged_by_their_sums(monkeypatch):
    def flash_attn_with_kvcache(
        q, k_cache, v_cache, cache_seqlens, softmax_scale, return_softmax_lse
    ):  # q [B, N, H, D], caches [B, S, Hkv, D]
        out, sums = torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1])
        group = q.shape[2] // k_cache.shape[2]
        for b, length in enumerate(cache_seqlens.tolist()):
            k = k_cache[b, :length].repeat_interleave(group, 1)
            v = v_cache[b, :length].repeat_interleave(group, 1)
            scores = torch.einsum("nhd,shd->hns", q[b], k) * softmax_scale
            out[b] = torch.einsum("hns,shd->nhd", scores.softmax(-1), v)
            sums[b] = scores.logsumexp(-1)
        return out, sums

    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=flash_attn_with_kvcache)
    problem = problem_of(TINY, [17, 4], 6)
    wanted = result_of(peers.sdpa(problem))
    torch.testing.assert_close(result_of(peers.flash_attn(problem)), wanted, rtol=1e-4, atol=1e-5)


def test_flashinfer_gets_its_mask_as_bits(monkeypatch):
    def packbits(x, bitorder):
        assert bitorder == "little" and x.dtype == torch.bool
        return x

    def single_prefill_with_kv_cache(q, k, v, packed_custom_mask, kv_layout, sm_scale):
        assert kv_layout == "HND"
        mask = packed_custom_mask.view(q.shape[0], k.shape[1])
        return torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1), k, v, attn_mask=mask, scale=sm_scale, enable_gqa=True
        ).transpose(0, 1)

    install(
        monkeypatch,
        "flashinfer",
        packbits=packbits,
        single_prefill_with_kv_cache=single_prefill_with_kv_cache,
    )
    problem = problem_of(TINY, [17], 6)
    wanted = result_of(peers.sdpa(problem))
    torch.testing.assert_close(result_of(peers.flashinfer(problem)), wanted, rtol=1e-4, atol=1e-5)
    several = problem_of(TINY, [17, 4], 6)
    assert peers.flashinfer(several) is None and "flashinfer" in several.skipped


def test_a_peer_that_raises_is_skipped_with_its_reason(monkeypatch):
    def broken(problem):
        raise OSError("no such\nlibrary")

    monkeypatch.setitem(peers.PEERS, "sdpa", broken)
    case = cuda_cases.attention_case(SETTING, TINY, [17], 9)
    assert case.skipped["sdpa"] == "OSError: no such" and "sdpa" not in case.peers


def test_masks_are_padded_for_the_kernels_and_not_beyond():
    problem = problem_of(TINY, [18], 6)
    mask = peers.dense_mask(problem)
    assert mask.shape == (1, 1, 6, 24)
    assert mask.stride(-2) % peers.MASK_ALIGNMENT == 0
    assert torch.equal(mask[0, 0, :, 18:] == 0, problem.seen[0])
    assert (mask[..., :18] == 0).all()


def test_compaction_agrees_and_a_reset_puts_the_lengths_back():
    case = cuda_cases.compact_case(SETTING, TINY, [0, 2, 5, 9, 14, 20])
    errors, failed = cuda_run.compare(case)
    assert errors == {"gather_copy": 0.0} and failed == {}
    lengths = case.reset()
    before = lengths.clone()
    case.ours[0]()
    assert (lengths - before).flatten().tolist() == [6]
    assert torch.equal(case.reset(), before)
    assert (
        case.bytes == 2 * 2 * 2 * 2 * 5 * 16 * 2
    )  # read and write, L, K and V, Hkv, rows, D, bf16


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.9)])
def test_a_walk_has_five_nodes_at_every_temperature(temperature, top_p):
    case = cuda_cases.accept_case(SETTING, 50, 9, temperature, top_p)
    for call in case.ours:
        assert call()[1].tolist() == [5]
    for calls in case.peers.values():
        assert calls[0]().shape == (1, 9)
    if temperature == 0:
        errors, failed = cuda_run.compare(case)
        assert errors == {"argmax": 0.0, "drawn one by one": 0.0} and failed == {}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("k", "vocab"), [(3, 50), (10, 700)])
def test_a_level_in_torch_is_ours(k, vocab, temperature):
    case = growth_cases.grow_case(SETTING, torch.float32, k, vocab, temperature)
    errors, failed = cuda_run.compare(case)
    assert set(errors) == {"torch"} and errors["torch"] < 1e-6 and failed == {}
    assert case.bytes == k * vocab * 4


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ([1.0, -torch.inf], 0.0),
        ([1.0, torch.inf], torch.inf),
        ([1.0, 5.0], torch.inf),
        ([1.0, torch.nan], torch.nan),
    ],
)
def test_equal_infinities_do_not_differ(other, wanted):
    got = cuda_run.difference(torch.tensor([1.0, -torch.inf]), torch.tensor(other))
    assert got == wanted or (got != got and wanted != 0)


def test_a_tree_in_torch_is_ours():
    for k, nodes in ((3, 20), (5, 70)):
        errors, failed = cuda_run.compare(growth_cases.prune_case(SETTING, k, nodes))
        assert errors == {"torch": 0.0} and failed == {}


def test_every_op_has_cases_on_either_device():
    assert set(CPU_CASES) == set(CUDA_CASES)


def test_the_nucleus_of_the_peer_is_that_of_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(1, 400, 1)
    _, draw = cuda_cases.draw_like(1.0, 0.7)
    assert set(draw(logits).unique().tolist()) == {0, 1}


def test_buffers_exceed_the_cache_twice():
    gpu = Setting(torch.device("cpu"), quick=True, l2_bytes=50_000)
    for touched in (700, 10_000, 99_999, 10**7):
        assert touched * (cuda_cases.copies_for(touched, gpu) - 1) >= 100_000 - touched
        assert touched * cuda_cases.copies_for(touched, gpu) > 100_000
    assert cuda_cases.copies_for(1, gpu) == cuda_cases.MOST_COPIES
    assert cuda_cases.copies_for(10**6, SETTING) == 1
    case = cuda_cases.attention_case(gpu, TINY, [17], 9)
    assert len(case.ours) == len(case.peers["sdpa"]) == 1 + -(-100_000 // (2 * 2 * 26 * 16 * 2))


def test_every_goal_belongs_to_a_case(monkeypatch):
    names: set[tuple[str, str]] = set()

    def note(op, name_of):
        def case(setting, *arguments):
            names.add((op, name_of(*arguments)))

        return case

    monkeypatch.setattr(
        cuda_cases,
        "attention_case",
        note(
            "tree_attention",
            lambda model, lengths, nodes: cuda_cases.attention_name(model, lengths, nodes),
        ),
    )
    monkeypatch.setattr(cuda_cases, "compact_case", note("kv_compact_", cuda_cases.compact_name))
    monkeypatch.setattr(cuda_cases, "accept_case", note("tree_accept", cuda_cases.accept_name))
    monkeypatch.setattr(
        growth_cases,
        "grow_case",
        note("tree_grow_", lambda dtype, *label: growth_cases.grow_label(*label)),
    )
    monkeypatch.setattr(growth_cases, "prune_case", note("tree_prune", growth_cases.prune_label))
    for cases in CUDA_CASES.values():
        list(cases(SETTING))
    assert set(GOALS) <= names


# --- from times to lines


def test_a_line_shows_floor_peers_and_goals():
    for op, case in tiny_cases():
        result = cuda_run.run_case(op, case, MACHINE, 0.0, fixed_times)
        line = cuda_run.cuda_line(result)
        assert result.ratio == 4.0 and "4.00x" in line and "DIFFERS" not in line
        assert result.figures["of copy"] == pytest.approx(case.bytes / 1e4 / 3000)
        json.dumps(vars(result))


def test_goals_are_judged():
    values = {"us": 10.0, "of copy": 0.5}
    assert judge_goal(Goal("us", 10, False), values)["reached"]
    assert not judge_goal(Goal("us", 9, False), values)["reached"]
    assert judge_goal(Goal("of copy", 0.5, True), values)["reached"]
    assert not judge_goal(Goal("of copy", 0.6, True), values)["reached"]
    missing = judge_goal(Goal("x sdpa", 3, True), values)
    assert missing["got"] is None and not missing["reached"]


def test_the_floor_is_the_larger_of_bytes_and_arithmetic(monkeypatch):
    monkeypatch.setitem(
        GOALS,
        ("tree_attention", "Tiny N=9 S=17"),
        [Goal("floors", 1.5, False), Goal("x sdpa", 5, True)],
    )
    case = cuda_cases.attention_case(SETTING, TINY, [17], 9)
    slow = Ceilings(1e-3, {"torch.bfloat16": 1e9}, 0)
    result = cuda_run.run_case("tree_attention", case, slow, 0.0, fixed_times)
    assert result.floor_us == pytest.approx(case.bytes / 1e-3 / 1e3)
    assert [target["reached"] for target in result.targets] == [True, False]
    assert "x sdpa >= 5: 4.00 SHORT" in cuda_run.cuda_line(result)
    weak = Ceilings(1e9, {"torch.bfloat16": 1e-3}, 0)
    result = cuda_run.run_case("tree_attention", case, weak, 0.0, fixed_times)
    assert result.floor_us == pytest.approx(case.flops / 1e-3 / 1e3)


def test_a_peer_that_differs_or_fails_is_not_counted():
    case = cuda_cases.attention_case(SETTING, TINY, [17], 9)
    right = case.outcomes["sdpa"]
    case.outcomes["sdpa"] = lambda: right() * 1.1

    def broken():
        raise RuntimeError("not supported")

    case.outcomes["sdpa_packed"] = broken
    result = cuda_run.run_case("tree_attention", case, MACHINE, 0.0, fixed_times)
    assert result.peers_us == {} and result.ratio is None
    assert result.differing == ["sdpa"]
    assert result.skipped["sdpa_packed"] == "RuntimeError: not supported"
    assert "sdpa DIFFERS by 9.1e-02" in cuda_run.cuda_line(result)
    nothing = cuda_run.difference(torch.ones(2), torch.full((2,), torch.nan))
    assert not nothing <= cuda_run.TOLERANCE


def test_a_run_on_a_gpu_prints_lines_and_a_document(monkeypatch, capsys):
    by_op: dict[str, list] = {}
    for op, case in tiny_cases():
        by_op.setdefault(op, []).append(case)
    monkeypatch.setattr(
        op_bench,
        "CUDA_CASES",
        {op: (lambda setting, cases=cases: iter(cases)) for op, cases in by_op.items()},
    )
    monkeypatch.setattr(op_bench, "measure_ceilings", lambda *_: MACHINE)
    monkeypatch.setattr(
        op_bench, "run_case", lambda *given: cuda_run.run_case(*given, timer=fixed_times)
    )
    document = json.loads(json.dumps(op_bench.run_cuda(SETTING, list(by_op))))
    printed = capsys.readouterr().out
    assert "copy 3000 GB/s" in printed and "700 TFLOP/s" in printed
    assert printed.count("without sdpa_cudnn: wants a GPU and 16-bit floats") == 1
    assert "goals: 0 of 0 reached" in printed
    assert len(document["results"]) == 6 and document["differing"] == {}
    assert document["geometric_means"] == pytest.approx(dict.fromkeys(by_op, 4.0))


# --- timing


class FakeGraph:
    """Records what is called while it is being captured, and calls it again at a replay."""

    capturing: FakeGraph | None = None

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1

    def reset(self) -> None:
        pass


class FakeCapture:
    def __init__(self, graph: FakeGraph) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        FakeGraph.capturing = self.graph

    def __exit__(self, *_: object) -> None:
        FakeGraph.capturing = None


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return 0.48  # milliseconds


def test_graphs_hold_whole_rounds_of_the_buffers(monkeypatch):
    graphs: list[FakeGraph] = []
    streams: list[str] = []

    def make_graph() -> FakeGraph:
        graphs.append(FakeGraph())
        return graphs[-1]

    for name, value in {
        "CUDAGraph": make_graph,
        "graph": FakeCapture,
        "Event": FakeEvent,
        "synchronize": lambda: None,
        "current_stream": lambda: "main",
        "set_stream": streams.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def call(name):
        def run() -> None:
            if FakeGraph.capturing is not None:
                FakeGraph.capturing.calls.append(name)

        return run

    def broken() -> None:
        if FakeGraph.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    resets: list[int] = []
    calls = {
        "ours": [call("a"), call("b"), call("c"), call("d"), call("e")],
        "one": [call("x")],
        "broken": [broken],
    }
    times, failures = timing.time_graphs(calls, lambda: resets.append(1), seconds=0.0, least=3)
    assert graphs[0].calls == list("abcde") * 5 and graphs[1].calls == ["x"] * 24
    assert times["ours"].us == pytest.approx(480 / 25) and times["one"].us == pytest.approx(20)
    assert [graph.replays for graph in graphs] == [6, 6, 0]
    assert set(failures) == {"broken"} and streams == ["main"]
    assert len(resets) == 2 * 3 + 3 * 6  # before each pair of replays, each round of launches
    assert times["ours"].launch_us > 0


# --- the command


def test_quick_runs_from_end_to_end(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench.ops", "--quick", "--threads", "1", "--json", "out.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == document
    kept = json.loads((ROOT / "bench" / "results" / "cpu-kernels.json").read_text())
    assert set(document) >= set(kept)
    assert set(document["results"][0]) >= set(kept["results"][0])
    assert set(document["geometric_means"]) == set(kept["geometric_means"])
    labels = {(result["op"], result["label"]) for result in kept["results"]}
    assert {(result["op"], result["label"]) for result in document["results"]} <= labels
