"""Runs commands in stages with time limits, and summarizes how each of them ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

TIMED_OUT = 124
NOT_FOUND = 127


@dataclass(frozen=True)
class Step:
    """One command. If its output contains `excuse`, a failure counts as 'not possible here'.

    One that runs `beside` the others is started, logged, and waited for by the first stage that
    wants the machine `alone`, or at the end.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    excuse: str | None = None
    beside: bool = False


@dataclass(frozen=True)
class Stage:
    """Steps that share a name and a time limit; `note` says why there are none, or some are not.

    `alone`: not while steps of other stages run beside it, as it takes times.
    """

    name: str
    limit_s: float
    steps: Sequence[Step]
    note: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a step ended. `status` is its exit status, or None if it was skipped."""

    name: str
    status: int | None
    seconds: float
    note: str

    @property
    def failed(self) -> bool:
        return self.status not in (0, None)


def run_stages(
    stages: Sequence[Stage], folder: Path, cwd: Path, total_s: float = float("inf")
) -> list[Outcome]:
    """Run every stage, even after failed ones; logs go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    running: list[Future[Outcome]] = []

    def wait() -> None:
        for each in running:
            done = each.result()
            print(f"\n== {done.name}, beside the others: {done.note}", flush=True)
            outcomes.append(done)
        running.clear()

    with ThreadPoolExecutor() as pool:
        for stage in stages:
            if stage.alone:
                wait()
            if stage.note or not stage.steps:
                print(f"\n== {stage.name}: {stage.note}", flush=True)
            if not stage.steps:
                outcomes.append(Outcome(stage.name, None, 0.0, stage.note))
            stage_end = min(end, time.monotonic() + stage.limit_s)
            for step in stage.steps:
                if step.beside:
                    running.append(pool.submit(run_step, step, folder, cwd, stage_end))
                else:
                    outcomes.append(run_step(step, folder, cwd, stage_end))
        wait()
    return outcomes


def run_step(step: Step, folder: Path, cwd: Path, end: float) -> Outcome:
    """Run one command in a process group of its own until `end`; print and log its output.

    Lines that are JSON documents, and what runs beside others, are only logged.
    """
    start = time.monotonic()
    if start >= end:
        return Outcome(step.name, TIMED_OUT, 0.0, "no time was left")
    print(f"\n== {step.name}: {' '.join(step.command)}", flush=True)
    lines: list[str] = []
    stopped = threading.Event()
    with (folder / f"{step.name}.log").open("w") as log:
        try:
            process = subprocess.Popen(
                step.command,
                cwd=cwd,
                env={**os.environ, **step.environment},
                text=True,
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,
            )
        except OSError as error:
            log.write(f"{error}\n")
            return Outcome(step.name, NOT_FOUND, 0.0, str(error))

        def stop() -> None:
            stopped.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(end - start, stop)
        timer.start()
        try:
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                lines.append(line.strip())
                if not line.startswith("{") and not step.beside:
                    print(line, end="", flush=True)
            status = process.wait()
        except BaseException:  # what stops this program stops all that it started
            stop()
            raise
        finally:
            timer.cancel()
    seconds = time.monotonic() - start
    if stopped.is_set():
        return Outcome(step.name, TIMED_OUT, seconds, f"stopped at its limit of {end - start:.0f}s")
    if status and step.excuse and any(step.excuse in line for line in lines):
        return Outcome(step.name, None, seconds, f"not possible here: {step.excuse}")
    said = [line for line in lines if line and not line.startswith("{")]
    return Outcome(step.name, status, seconds, said[-1][:100] if said else "")


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line per step: name, exit status, seconds, and its last line of output."""
    rows = [
        f"{one.name:<20} {'skipped' if one.status is None else one.status:>7} "
        f"{one.seconds:8.1f}s  {one.note}"
        for one in outcomes
    ]
    failed = [one.name for one in outcomes if one.failed]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "nothing failed"
    return "\n".join([f"{'step':<20} {'exit':>7} {'time':>9}", *rows, verdict])
