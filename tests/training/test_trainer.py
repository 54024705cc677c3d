"""The training loop with a toy learner: exact restarts, refusals, what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hivis.errors import HivisError
from hivis.training import run_state as state_module
from hivis.training.data.samples import Capture, Columns, save_shard
from hivis.training.learners.learner import Stage
from hivis.training.learners.losses import LossWeights, RowLosses
from hivis.training.run_state import Checkpoint
from hivis.training.trainer import StageProgress, learning_rate, run
from tests.helpers.toy_learner import SETTINGS, Stopped, ToyLearner, train
from tests.helpers.training_samples import toy_samples

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    save_shard(tmp_path / "data" / "shard-00000.safetensors", toy_samples(15), Columns("text"))
    return Capture(tmp_path / "data", Columns("text"))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_leaves_its_drafters_and_its_metrics(tmp_path: Path, capture: Capture) -> None:
    learner, metrics = train(tmp_path / "out", capture)
    assert list(dict.fromkeys(name for name, _ in learner.batches)) == ["first", "second"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "first",
        "metrics.json",
        "model.safetensors",
    ]
    assert not equal(weights(tmp_path / "out"), weights(tmp_path / "out" / "first"))
    assert torch.equal(learner.frozen, torch.ones(2))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"] == json.loads(
        json.dumps(metrics["metrics"])
    )
    first = metrics["metrics"]["first"]
    assert first["updates"] == 7 and set(first["accepted_length"]) == {"6/5/1", "16/5/4"}
    # Held-out figures are of the last stage's conditions, so the stages can be compared.
    soft = [metrics["metrics"][name]["held_out_passes"][0]["soft"] for name in ("first", "second")]
    assert soft[1] < soft[0]


@pytest.mark.parametrize("stops", [(1,), (3, 1, 1), (6,), (7,), (8, 2), (15,)])
def test_a_stopped_run_ends_in_the_same_weights(
    tmp_path: Path, capture: Capture, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    """Saved after every update and stopped anywhere, also several times, also between stages."""
    monkeypatch.setattr(state_module, "SAVE_SECONDS", 0.0)
    train(tmp_path / "whole", capture)
    for i, stop in enumerate(stops):
        with pytest.raises(Stopped):
            # The report comes before the save: the update that it tells of is made again.
            train(tmp_path / "out", capture, resume=i > 0, stop_after=stop)
    learner, metrics = train(tmp_path / "out", capture, resume=True)
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "whole"))
    assert equal(weights(tmp_path / "out/first"), weights(tmp_path / "whole/first"))
    ours, theirs = ((tmp_path / n / "metrics.json").read_text() for n in ("out", "whole"))
    assert ours == theirs
    assert not (tmp_path / "out" / state_module.STATE_FILE).exists()
    # Once more on a finished run: nothing is left to do, and nothing changes.
    before = weights(tmp_path / "out")
    learner, again = train(tmp_path / "out", capture, resume=True)
    assert learner.batches == [] and again["metrics"] == json.loads(json.dumps(metrics["metrics"]))
    assert equal(weights(tmp_path / "out"), before)


KILLED = """
import sys
from pathlib import Path
from hivis.training import run_state
from hivis.training.data.samples import Capture, Columns
from tests.helpers.toy_learner import ToyLearner, train
run_state.SAVE_SECONDS = 0.0
capture = Capture(Path({data!r}), Columns("text"))
train(Path({out!r}), capture, resume={resume}, learner=ToyLearner((400, 400)))
"""


def test_killed_at_any_moment(tmp_path: Path, capture: Capture) -> None:
    """SIGKILL, wherever it lands: also in the middle of writing a checkpoint."""
    out, data = str(tmp_path / "out"), str(tmp_path / "data")

    def start(resume: bool) -> subprocess.Popen:
        code = KILLED.format(data=data, out=out, resume=resume)
        return subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT
        )

    for i, wait in enumerate((0.05, 0.4, 0.15)):
        process = start(resume=i > 0)
        deadline = time.monotonic() + 60
        while not (tmp_path / "out" / state_module.STATE_FILE).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(resume=True).wait(timeout=120) == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(tmp_path / "whole", capture, learner=ToyLearner((400, 400)))
    torch.set_num_threads(threads)
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_another_run_in_the_folder_is_refused(
    tmp_path: Path, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "SAVE_SECONDS", 0.0)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        train(out, capture, stop_after=3)
    before = (out / state_module.STATE_FILE).read_bytes()
    with pytest.raises(HivisError, match="without a training run, or --resume"):
        train(out, capture)
    with pytest.raises(HivisError, match=r"settings\.seed 1, got 0"):
        train(out, capture, resume=True, settings=replace(SETTINGS, seed=1))
    with pytest.raises(HivisError, match=r"stages\[0\]\.updates 8, got 7"):
        train(out, capture, resume=True, learner=ToyLearner((8, 9)))
    assert (out / state_module.STATE_FILE).read_bytes() == before
    save_shard(
        tmp_path / "data" / "shard-00000.safetensors", toy_samples(15)[::-1], Columns("text")
    )
    with pytest.raises(HivisError, match="with data '"):
        train(out, Capture(tmp_path / "data", Columns("text")), resume=True)
    with pytest.raises(HivisError, match=r"drafter\.scale 2\.0, got 1\.0"):
        train(out, capture, resume=True, learner=ToyLearner(scale=2.0))
    (out / state_module.STATE_FILE).write_bytes(before[:2000])
    with pytest.raises(HivisError, match="wanted a training state"):
        train(out, capture, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, capture: Capture) -> None:
    with pytest.raises(HivisError, match="first, update 0: wanted a finite gradient, got nan"):
        train(tmp_path, capture, learner=ToyLearner(scale=float("nan")))
    assert not (tmp_path / "model.safetensors").exists()


def test_held_out_answers_are_never_trained_on(tmp_path: Path, capture: Capture) -> None:
    learner = ToyLearner((9, 3))
    _, metrics = train(tmp_path, capture, learner=learner)
    # 3 batches an epoch, of 12 answers; each measure is one batch of the 3 that are held out.
    trained = [seen for _, seen in learner.batches if len(seen) == 4]
    measured = [seen for _, seen in learner.batches if len(seen) == 3]
    assert len(trained) == 12 and len(measured) == 2 and metrics["held_out"] == 3
    held_out = set(measured[0])
    assert held_out == set(measured[1])
    for epoch in range(4):
        seen = [i for batch in trained[3 * epoch : 3 * epoch + 3] for i in batch]
        assert sorted(seen) == sorted(set(range(15)) - held_out)
    orders = {tuple(map(tuple, trained[3 * epoch : 3 * epoch + 3])) for epoch in range(4)}
    assert len(orders) == 4, "every epoch and stage has an order of its own"


def test_every_update_has_noise_of_its_own(
    tmp_path: Path, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    class Noting(ToyLearner):
        def losses(self, batch: Tensor, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
            if torch.is_grad_enabled():
                drawn.append(float(torch.rand(())))
            return super().losses(batch, stage)

    train(tmp_path / "one", capture, learner=Noting())
    assert len(drawn) == 16 == len(set(drawn))
    first = drawn.copy()
    train(tmp_path / "two", capture, learner=Noting(), settings=replace(SETTINGS, seed=1))
    assert not set(first) & set(drawn[16:])


def test_gradients_are_clipped(tmp_path: Path, capture: Capture) -> None:
    """Adam does not see the size of a gradient, but it sees that sizes differ between updates."""
    norms: list[float] = []

    class Noting(ToyLearner):
        def losses(self, batch: Tensor, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
            grads = [p.grad for p in self.module.parameters() if p.grad is not None]
            if torch.is_grad_enabled() and grads:
                norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
            return super().losses(batch, stage)

    train(tmp_path / "a", capture, learner=Noting(), settings=replace(SETTINGS, clip=0.01))
    assert norms and max(norms) <= 0.0101


def test_too_few_answers(tmp_path: Path) -> None:
    save_shard(tmp_path / "data" / "shard-00000.safetensors", toy_samples(4), Columns("text"))
    with pytest.raises(HivisError, match="at least 5 times as many answers .* got 4"):
        train(tmp_path / "out", Capture(tmp_path / "data", Columns("text")))


def test_reports_tell_losses_and_accepted_length(tmp_path: Path, capture: Capture) -> None:
    seen: list[tuple[str, int, int, bool]] = []

    def look(now: StageProgress) -> None:
        seen.append((now.stage, now.updates, len(now.losses), now.accepted is not None))

    learner = ToyLearner()
    checkpoint = Checkpoint(tmp_path / "out", resume=False)
    run(learner, learner.target, capture, SETTINGS, {}, checkpoint, look)
    assert [updates for _, updates, _, _ in seen] == [*range(1, 8), *range(1, 10)]
    assert all(passes == 1 for _, _, passes, _ in seen)
    assert not seen[1][3] and seen[2][3] and seen[6][3]


def test_learning_rate_rises_and_falls() -> None:
    stage = Stage("a", 100, 2.0, LossWeights())
    rates = [learning_rate(stage, 10, u) for u in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) < 2.0 and rates[-1] < 0.01
    assert rates.index(max(rates)) == 9


def test_a_folder_with_a_model_or_half_a_run_is_refused(tmp_path: Path, capture: Capture) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"of somebody")
    for resume in (False, True):
        with pytest.raises(HivisError, match="wanted a folder without a model, got model.safe"):
            Checkpoint(model, resume)
    assert [p.name for p in model.iterdir()] == ["model.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(HivisError, match="wanted a folder that can be written"):
        Checkpoint(tmp_path / "file", False)
    out = tmp_path / "out"
    train(out, capture)
    (out / "model.safetensors").unlink()
    with pytest.raises(HivisError, match="wanted the model.safetensors of a finished run"):
        train(out, capture, resume=True)
    (out / "metrics.json").write_text("[]")
    with pytest.raises(HivisError, match="wanted the metrics of a run"):
        train(out, capture, resume=True)
