"""tools/gpu_check.py without a GPU: which stages run, and what becomes of those that fail."""

from __future__ import annotations

import json
import signal
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench.synthetic import __main__ as synthetic
from bench.synthetic.configs import SHAPES
from hivis.errors import HivisError
from tools import gpu_check, gpu_prefill, gpu_smoke
from tools.stages import NOT_FOUND, TIMED_OUT, Stage, Step, run_stages, summary

ROOT = Path(__file__).resolve().parents[2]
GPU = {"torch": "2.11.0", "device": "NVIDIA Test", "arch": "90"}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def stage(name: str, code: str, limit_s: float = 60, excuse: str | None = None) -> Stage:
    return Stage(name, limit_s, [Step(name, python(code), excuse=excuse)])


@pytest.fixture
def machine(monkeypatch):
    """As if there were a GPU; stages made of harmless commands."""
    monkeypatch.setattr(gpu_check, "gpu_facts", lambda: GPU)
    monkeypatch.setattr(gpu_check, "build", lambda arch: stage("build", f"print('for {arch}')"))
    monkeypatch.setattr(gpu_check, "test", lambda: stage("test", "raise SystemExit(3)"))
    for name in ("smoke", "ops", "cycles"):
        monkeypatch.setattr(gpu_check, name, lambda name=name: stage(name, "print('fine')"))
    monkeypatch.setattr(gpu_check, "sanitize", lambda tool: Stage(tool, 60, [], "skipped: none"))
    monkeypatch.setattr(gpu_check, "prefill", lambda out: stage("prefill", "print('fine')"))
    monkeypatch.setattr(
        gpu_check, "bench", lambda name, out, more: stage(name, f"print('{{}}'); print({more!r})")
    )
    monkeypatch.setattr(
        gpu_check,
        "shape",
        lambda out, names, more=(): stage("shape", f"print({names!r}, {list(more)!r})"),
    )


# --- stages


def test_a_stage_that_fails_hides_no_later_one(tmp_path, capsys):
    stages = [stage("first", "print('one'); raise SystemExit(3)"), stage("second", "print('two')")]
    first, second = run_stages(stages, tmp_path / "out", tmp_path)
    assert (first.status, first.note, first.failed) == (3, "one", True)
    assert (second.status, second.note, second.failed) == (0, "two", False)
    assert (tmp_path / "out" / "second.log").read_text() == "two\n"
    text = summary([first, second])
    assert text.splitlines()[-1] == "FAILED: first"
    assert "two" in capsys.readouterr().out
    assert summary([second]).splitlines()[-1] == "nothing failed"


def test_a_stage_is_stopped_at_its_limit_with_all_it_started(tmp_path):
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (slow,) = run_stages([stage("slow", code, limit_s=1)], tmp_path, tmp_path)
    assert slow.status == TIMED_OUT and slow.seconds < 30
    assert "stopped at its limit of 1s" in slow.note


def test_the_total_bounds_all_stages(tmp_path):
    code = "import time; time.sleep(60)"
    stages = [stage("slow", code), stage("late", "print('never')")]
    slow, late = run_stages(stages, tmp_path, tmp_path, total_s=1)
    assert slow.status == late.status == TIMED_OUT
    assert late.note == "no time was left"


def test_a_missing_command_and_a_machine_that_refuses(tmp_path):
    stages = [
        Stage("missing", 60, [Step("missing", ["no-such-command"])]),
        stage(
            "refused",
            "print('Device not supported.'); raise SystemExit(1)",
            excuse="Device not supported",
        ),
        stage("broken", "print('Race found.'); raise SystemExit(1)", excuse="Device not supported"),
        Stage("nothing", 60, [], "skipped: not installed"),
    ]
    missing, refused, broken, nothing = run_stages(stages, tmp_path, tmp_path)
    assert missing.status == NOT_FOUND and missing.failed
    assert refused.status is None and "not possible here" in refused.note and not refused.failed
    assert broken.status == 1 and broken.failed
    assert nothing.status is None and nothing.note == "skipped: not installed"
    assert "skipped" in summary([nothing])


def test_json_lines_go_to_the_log_alone(tmp_path, capsys):
    (done,) = run_stages([stage("s", "print('table'); print('{\"a\": 1}')")], tmp_path, tmp_path)
    assert '{"a": 1}' in (tmp_path / "s.log").read_text()
    assert '{"a": 1}\n' not in capsys.readouterr().out and done.note == "table"


def test_a_step_beside_others_is_waited_for(tmp_path, capsys):
    """By a stage that takes times, or at the end; its output is only logged."""
    code = (
        "import os, time\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "time.sleep(0.3); print('checked'); open('done', 'w')"
    )
    beside = Stage("slow", 60, [Step("slow", python(code), beside=True)])
    early = "import os; print('late' if os.path.exists('done') else 'early'); open('go', 'w')"
    stages = [beside, stage("quick", early)]
    stages.append(replace(stage("timed", early), alone=True))
    outcomes = {one.name: one for one in run_stages(stages, tmp_path, tmp_path)}
    assert outcomes["quick"].note == "early" and outcomes["timed"].note == "late"
    assert outcomes["slow"].note == "checked"
    assert "\nchecked\n" not in capsys.readouterr().out
    assert (tmp_path / "slow.log").read_text() == "checked\n"
    code = "import time; time.sleep(60)"
    (slow,) = run_stages(
        [Stage("s", 1, [Step("s", python(code), beside=True)])], tmp_path, tmp_path
    )
    assert slow.status == TIMED_OUT and slow.seconds < 30


@pytest.mark.parametrize(("processes", "who"), [((), "os.getpid()"), (("-n", "2"), "os.getppid()")])
def test_a_failure_is_named_when_it_happens(tmp_path, processes, who):
    """Also if the run is killed before its end."""
    (tmp_path / "test_it.py").write_text(
        "import os, signal, time\n"
        "def test_a():\n    assert 1 == 2, 'not so'\n"
        f"def test_b():\n    time.sleep(4)\n    os.kill({who}, signal.SIGKILL)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tools.name_failures", "-q", *processes]
    step = Step("tests", [*command, str(tmp_path / "test_it.py")], {"PYTHONPATH": str(ROOT)})
    (killed,) = run_stages([Stage("tests", 120, [step])], tmp_path, tmp_path)
    assert killed.status == -signal.SIGKILL
    said = "FAILED AT call: test_it.py::test_a: AssertionError: not so"
    assert said in (tmp_path / "tests.log").read_text()


# --- the command


def test_stages_are_chosen_and_reported(machine, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = ["--stages", "bench,build", "--out", str(out), "--bench", "--quick --only x"]
    assert gpu_check.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "['--quick', '--only', 'x']" in printed and "nothing failed" in printed
    document = json.loads((out / "summary.json").read_text())
    assert [step["name"] for step in document["steps"]] == ["build", "bench"]
    assert document["device"] == "NVIDIA Test"
    assert document["steps"][0]["note"] == "for 90"


def test_one_failed_stage_fails_the_check(machine, tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED: test" in lines and any(line.startswith("memcheck") for line in lines)
    names = [step["name"] for step in json.loads((tmp_path / "summary.json").read_text())["steps"]]
    assert names == [
        "build", "smoke", "memcheck", "test", "bench", "prefill", "shape", "racecheck",
    ]  # fmt: skip
    assert any("llava-1.5-13b" in line for line in lines)


def test_the_short_calls(machine, tmp_path, capsys):
    """In this order, and whatever happens in one archive."""
    for call, wanted in (
        ("first", ["build", "smoke", "memcheck", "ops", "cycles", "table"]),
        ("second", ["build", "bench", "prefill", "shape", "racecheck"]),
    ):
        out = tmp_path / call
        assert gpu_check.main(["--call", call, "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        document = json.loads((out / "summary.json").read_text())
        assert [step["name"] for step in document["steps"]] == wanted
        with tarfile.open(f"{out}.tar.gz") as archive:
            assert {"./summary.json", "./build.log"} <= set(archive.getnames())
        assert "--no-flex" in printed
    assert "['llava-1.5-7b', 'qwen2.5-vl-7b'] ['--prompt-rows', '700', '--no-hf']" in printed
    limits = {name: total for name, (total, _, _) in gpu_check.CALLS.items()}
    assert limits == {"first": 400, "second": 300}


def test_the_archive_is_made_when_the_time_is_up(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "smoke", lambda: stage("smoke", "import time; time.sleep(60)"))
    assert gpu_check.main(["--call", "first", "--total", "4", "--out", str(tmp_path / "o")]) == 1
    with tarfile.open(tmp_path / "o.tar.gz") as archive:
        assert {"./build.log", "./summary.json"} <= set(archive.getnames())


@pytest.mark.parametrize("stages", ["build,tests", "", ","])
def test_unknown_stages_are_refused(stages, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_check.parse(["--stages", stages])
    assert stopped.value.code == 2 and "--stages: wanted" in capsys.readouterr().err


def test_shapes_are_chosen_too(machine, tmp_path, capsys):
    arguments = ["--stages", "shape", "--shapes", "qwen2.5-vl-7b", "--out", str(tmp_path)]
    assert gpu_check.main(arguments) == 0
    assert "['qwen2.5-vl-7b']" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gpu_check.parse(["--shapes", "gpt"])
    assert "--shapes: wanted" in capsys.readouterr().err


def test_a_machine_without_a_gpu_is_told_so(monkeypatch, capsys):
    none = {"torch": "2.13.0+cpu", "device": None, "arch": None}
    monkeypatch.setattr(gpu_check, "gpu_facts", lambda: none)
    assert gpu_check.main([]) == 2
    assert "wanted a GPU that torch sees, got torch 2.13.0+cpu" in capsys.readouterr().err


# --- what the stages are made of


def test_the_build_is_for_this_gpu_alone():
    configure, build, info = gpu_check.build("90").steps
    assert "setup.py" not in " ".join([*configure.command, *build.command])
    assert {"-DHIVIS_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90"} <= set(configure.command)
    assert build.command[-1] == "_C"
    assert "-DCMAKE_CUDA_ARCHITECTURES=native" in gpu_check.build(None).steps[0].command
    assert "missing_on('cuda')" in info.command[2]


def test_the_tests_for_a_gpu_are_there():
    for made, files in ((gpu_check.ops(), "OPS_TESTS"), (gpu_check.cycles(), "CYCLE_TESTS")):
        command = made.steps[0].command
        for name in getattr(gpu_check, files):
            assert (ROOT / name).is_file() and name in command
        assert "tools.name_failures" in command and "--devices" in command


def test_tests_that_lack_a_package_are_left_out_and_named(monkeypatch):
    real = gpu_check.find_spec
    gone = {"hypothesis", "xdist"}
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name in gone else real(name))
    made = gpu_check.test()
    users = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if "\nfrom hypothesis import" in path.read_text()
    ]
    assert users
    for path in users:
        assert f"without {path.name} (no hypothesis installed)" in made.note
        assert f"--ignore={path}" in made.steps[0].command
    assert "one process" in made.note and "-n" not in made.steps[0].command
    assert "--devices" in made.steps[0].command


def test_packages_are_found_through_this_checkouts_own_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "peer.py").write_text("import nowhere.at.all\nimport json\n")
    (tmp_path / "tests" / "helper.py").write_text("from bench.peer import x\n")
    (tmp_path / "tests" / "helper2.py").write_text("import tests.helper2\nimport tests.helper\n")
    user = tmp_path / "tests" / "test_x.py"
    user.write_text("import tests.helper2\n\ndef f():\n    import only_inside\n")
    assert gpu_check.missing_packages(user) == {"nowhere"}


def test_without_pytest_the_smoke_test_still_runs(monkeypatch):
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    for made in (gpu_check.test(), gpu_check.ops(), gpu_check.cycles(), gpu_check.prefill(ROOT)):
        assert not made.steps and "is not installed" in made.note
    assert gpu_check.smoke().steps[0].command[-1] == "tools.gpu_smoke"


def test_the_sanitizer_watches_hivis_alone_and_every_tensor_apart(monkeypatch):
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "/cuda/compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        (step,) = gpu_check.sanitize(tool).steps
        assert step.beside == (tool == "memcheck")
        assert step.command[:3] == ["/cuda/compute-sanitizer", "--tool", tool]
        assert "kns=hivis" in step.command and "--error-exitcode" in step.command
        assert step.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: None)
    made = gpu_check.sanitize("memcheck")
    assert made.steps == [] and "no compute-sanitizer" in made.note


def test_shapes_are_those_of_the_bench(tmp_path, monkeypatch):
    assert sorted(gpu_check.SHAPES) == sorted(SHAPES)
    steps = gpu_check.shape(tmp_path, gpu_check.SHAPES).steps
    for name, step in zip(gpu_check.SHAPES, steps, strict=True):
        assert step.command[1:6] == ["-m", "bench.synthetic", name, "--device", "cuda"]
        assert str(tmp_path / f"{name}.json") in step.command and "--plot" in step.command
        # options that the bench knows, which complains of the machine alone
        with pytest.raises(HivisError, match="^--device: wanted"):
            synthetic.main([*step.command[3:]])
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    made = gpu_check.shape(tmp_path, gpu_check.SHAPES)
    assert made.steps == [] and made.note == "skipped: transformers is not installed"


def test_the_smoke_test_passes_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_smoke", "--device", "cpu"])
    assert gpu_smoke.main() == 0
    assert "all ok" in capsys.readouterr().out
    monkeypatch.setattr(gpu_smoke, "checks", lambda: iter([("wrong", lambda device: False)]))
    assert gpu_smoke.main() == 1


def test_the_smoke_test_goes_on_after_an_error(monkeypatch, capsys):
    def raises(device):
        raise ValueError("of the reference")

    monkeypatch.setattr(sys, "argv", ["gpu_smoke", "--device", "cpu"])
    pair = [("broken", raises), ("fine", lambda device: True)]
    monkeypatch.setattr(gpu_smoke, "checks", lambda: iter(pair))
    assert gpu_smoke.main() == 1
    out = capsys.readouterr().out
    assert "broken: FAILED: of the reference" in out and "fine: ok" in out and "1 failed" in out


def test_the_prefill_times_are_taken_for_each_length(monkeypatch, capsys):
    command = ["gpu_prefill", "--device", "cpu", "--scale", "tiny", "--layers", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--lengths", "48", "49"])
    assert gpu_prefill.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["first_token_ms"]
    assert len(figures) == 4 and all(len(times) == 2 for times in figures.values())


def test_make_hands_over():
    makefile = (ROOT / "Makefile").read_text()
    assert "-m tools.gpu_check --out $(OUT) $(ARGS)" in makefile
    assert "-m tools.kernel_gate" in makefile
