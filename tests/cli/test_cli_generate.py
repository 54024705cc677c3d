"""``python -m hivis generate``, ``chat``, ``info``: pipes, terminals, bad input."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hivis
from hivis.api.stream import Chunk
from hivis.bundled import paths
from hivis.cli import terminal
from hivis.cli.generate import PROMPT
from hivis.cli.main import main
from hivis.errors import HivisError

ROOT = Path(__file__).resolve().parents[2]
IMAGE = str(paths.EVAL / "scene00.png")
QUICK = ("--max-new-tokens", "24", "--dtype", "float32", "--device", "cpu", "--policy", "fixed")
LINE = re.compile(
    r"^(\d+) tokens \| \d+ tokens/s \| accepted length [\d.]+ \| tokens per cycle [\d.]+ \| "
    r"first token \d+ ms \| ended by (eos|stop|length)$"
)


def heed_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str, **more) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    return subprocess.Popen(
        [sys.executable, "-m", "hivis", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
        **more,
    )


def run(*arguments: str, given: str = "") -> tuple[int, str, str]:
    process = start(*arguments, stdin=subprocess.PIPE)
    out, errors = process.communicate(given.encode(), timeout=120)
    return process.returncode, out.decode(), errors.decode()


@pytest.fixture(scope="module")
def text() -> str:
    model = hivis.load(dtype="float32", device="cpu", policy="fixed")
    return model.generate(PROMPT, IMAGE, max_new_tokens=24).text


def test_generate_in_a_pipe(text):
    code, out, errors = run("generate", *QUICK, "--show-tree")
    assert (code, out) == (0, text.lstrip() + "\n")
    (line,) = errors.splitlines()
    assert LINE.match(line), line
    assert "\x1b" not in out + errors


def test_generate_on_a_terminal(text):
    """Colors, which say nothing else than the text; and a note while the model loads."""
    main_side, other_side = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "hivis", "generate", *QUICK, "--show-tree"],
        cwd=ROOT,
        env=environment,
        stdin=other_side,
        stdout=other_side,
        stderr=other_side,
    )
    os.close(other_side)
    shown = b""
    try:
        while part := os.read(main_side, 4096):
            shown += part
    except OSError:  # how a pty says that the other side is closed
        pass
    os.close(main_side)
    assert process.wait(timeout=60) == 0
    lines = shown.decode().replace("\r\n", "\n")
    assert lines.startswith("loading the bundled model ...\r\x1b[K")
    lines = lines.split("\x1b[K", 1)[1]
    assert terminal.DRAFTED in lines and terminal.OWN in lines
    plain, legend, line = re.sub(r"\x1b\[[\d;]*m", "", lines).splitlines()
    assert plain == text.lstrip() and LINE.match(line)
    assert legend == "drafted and accepted, the target's own"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("out", [Terminal, io.StringIO])
def test_what_a_model_writes_does_not_command_the_terminal(monkeypatch, out, tree):
    """Escape sequences in the text itself, also over two tokens; a pipe gets them as they are."""
    monkeypatch.setattr(sys, "stdout", out())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pieces = ("a\x1b", "]0;evil\x07", "\x9b2J\tb\r\n")

    class Stream:
        def chunks(self):
            yield Chunk((1, 2, 3), pieces)

    terminal.print_stream(Stream(), tree)
    shown = sys.stdout.getvalue()
    if out is Terminal:
        assert re.sub("\x1b\\[[0-9;]*m", "", shown) == "a\\x1b]0;evil\\x07\\x9b2J\tb\\x0d\n\n"
    else:
        assert shown == "".join(pieces) + "\n"


def test_json(text, capsys):
    main(["generate", *QUICK, "--json", "--prompt", PROMPT, "--image", IMAGE, "--stop", "."])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["text"] == text.split(".")[0] and found["finish"] == "stop"
    assert found["statistics"]["accepted_length"] > 1
    assert found["statistics"]["tokens_per_second"] > 0
    assert len(found["tokens"]) == 1 + sum(
        1 + length for length in found["statistics"]["accepted_lengths"]
    )


def test_the_text_does_not_depend_on_how_it_is_made(text, capsys):
    for more in (["--drafter", "none"], ["--drafter", str(paths.EAGLE)], ["--policy", "cost"]):
        main(["generate", *QUICK, *more])
        captured = capsys.readouterr()
        assert captured.out == text.lstrip() + "\n"
        assert ("nothing drafted" in captured.err) == ("none" in more)


def test_prompts_from_stdin(monkeypatch, capsys, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    main(["generate", *QUICK, "--prompt", "-"])
    assert capsys.readouterr().out == text.lstrip() + "\n"


def test_settings_reach_the_text(capsys):
    texts = []
    for more in ([], ["--seed", "1"], ["--top-k", "1"], ["--set", "top_k=1", "--seed", "2"]):
        main(["generate", *QUICK, "--temperature", "1.2", *more])
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1] and texts[2] == texts[3]


BAD = [
    ["--temperature", "hot"], ["--temperature", "-1"], ["--temperature", "nan"],
    ["--top-k", "1.5"], ["--top-k", "-3"], ["--top-p", "0"], ["--top-p", "2"], ["--min-p", "-1"],
    ["--seed", "9223372036854775808"], ["--max-new-tokens", "0"], ["--max-new-tokens", "99999"],
    ["--stop", ""], ["--set", "num_beams"], ["--set", "num_beams=4"], ["--set", "nonsense=1"],
    ["--set", "no_repeat_ngram_size=3"], ["--dtype", "int8"], ["--device", "tpu"],
    ["--device", "cuda:77"], ["--policy", "best"], ["--model", "/nowhere", "--prompt", "x"],
    ["--model", str(paths.TARGET)], ["--model", str(paths.HIVIS), "--prompt", "x"],
    ["--drafter", "/nowhere"], ["--drafter", str(paths.EVAL)], ["--image", "nowhere.png"],
    ["--image", str(ROOT)], ["--image", str(ROOT / "README.md")], ["--prompt", ""],
    ["--prompt", "<image> <image>"], ["--bogus"], ["more"], ["--json", "--show-tree"],
    ["--image"], ["--set", "top_k=1", "--top-k", "2"], ["--temp", "1"],
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=" ".join)
def test_bad_input_is_named_in_one_line(bad):
    with pytest.raises(HivisError) as error:
        main(["generate", *bad])
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    assert re.search("(: wanted .*, got )|no such file|not readable|cannot be loaded", message)


@pytest.mark.parametrize(
    "command", [["generate", "--top-k", "x"], ["nonsense"], [], ["chat", "--image", "nowhere.png"]]
)
def test_exit_status_2(command):
    code, out, errors = run(*command)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--method", "none"], "--method: wanted one of hivis, vispec, .*, got 'none'"),
        (["train"], "python -m hivis train: wanted --method, --target, --data, --out, got none"),
        (["capture", "--count", "x"], "--count: wanted int, got 'x'"),
        (["generat"], "COMMAND: wanted one of generate, chat, .*, got 'generat'"),
        (["generate", "--image"], "--image: wanted at least one argument, got none"),
        (["info", "--x"], "python -m hivis: wanted known options, got --x"),
    ],
)
def test_what_argparse_says_is_said_in_our_words(command, message):
    with pytest.raises(HivisError, match=f"^{message}$"):
        main(command)


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hivis {hivis.__version__}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "hivis", "info"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "error: No space left on device\n"


def test_ctrl_c_is_130_without_a_word():
    process = start("generate", "--max-new-tokens", "1500", "--set", "eos_token_id=[]")
    assert process.stdout.read(1)  # the text has begun
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and not errors and out.endswith(b"\n")


def test_a_reader_that_goes_away_is_no_error():
    process = start("generate", "--max-new-tokens", "1500", "--set", "eos_token_id=[]")
    assert process.stdout.read(1)
    process.stdout.close()
    started = time.monotonic()
    assert process.wait(timeout=60) == 141 and time.monotonic() - started < 20
    assert process.stderr.read() == b""


def test_chat_in_a_pipe():
    given = "What is it?\n\nWhat does the sign say?\n/new\nWhat does the sign say?\n/quit\nnever\n"
    code, out, errors = run("chat", *QUICK, given=given)
    assert code == 0 and len(out.splitlines()) == 3 == len(errors.splitlines())
    assert all(LINE.match(line) for line in errors.splitlines())
    code, out, errors = run("chat", *QUICK, given="/image nowhere.png\n")
    assert code == 2 and errors == "error: image nowhere.png: no such file\n"
    assert run("chat", *QUICK, given="/dance\n")[0] == 2


def test_info(capsys):
    main(["info"])
    shown = capsys.readouterr().out
    assert "torch" in shown and "bundled models" in shown and "31.5 MB" in shown
    main(["info", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ops"]["cpu"] == "all" and found["versions"]["hivis"]


@pytest.mark.parametrize(
    "command", ["", "generate", "chat", "info", "train", "capture", "draft-vocab"]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage" in shown
    assert command not in ("generate", "chat") or "examples:\n  python -m hivis" in shown
    assert all(len(line) <= 100 for line in shown.splitlines())
