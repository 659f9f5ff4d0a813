"""The command line keeps its promises: help, one line per mistake, exit codes, JSON on standard output alone."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foretell import __version__
from foretell.cli import main as module
from foretell.cli.command import Command, Context
from foretell.cli.console import number, plain, size
from foretell.cli.main import COMMANDS, main, usage_error
from foretell.errors import SpecError, TrainingError


@dataclass(frozen=True, kw_only=True)
class Fake(Command):
    """A command to test with."""

    count: int
    """How many."""
    share: float = 0.5
    """How much."""
    fail: str = ""
    """How to fail."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise SpecError(f"--count: 0 or more expected, got {self.count}")

    def run(self, context: Context) -> dict[str, Any]:
        """Print noise and return the options, or fail."""
        print("noise from a library")
        failures: dict[str, BaseException] = {
            "mistake": SpecError("channel x: float expected,\n got text"),
            "training": TrainingError("the loss is NaN"),
            "interrupt": KeyboardInterrupt(),
            "bug": KeyError("secret"),
            "disk": OSError(28, "No space left on device", "data/x"),
            "memory": MemoryError(),
        }
        if self.fail:
            raise failures[self.fail]
        return {"count": self.count, "seed": context.seed, "threads": context.threads, "nan": float("nan")}

    def show(self, result: dict[str, Any], console: Console) -> None:
        """One line."""
        console.print(f"counted {result['count']}")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module.COMMANDS, "fake", (f"{__name__}:Fake", "A command to test with."))
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or inspect.getmodule(Fake))
    monkeypatch.setattr(importlib.import_module("tempfile"), "tempdir", str(tmp_path))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def test_results_are_for_people_or_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "--count", "3"]) == 0
    assert capsys.readouterr().out == "counted 3\n"
    assert main(["fake", "--count", "3", "--json", "--seed", "7", "--threads", "2"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"count": 3, "seed": 7, "threads": 2, "nan": None}
    assert out.count("\n") == 1
    assert "noise" in err


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("mistake", 2, "channel x: float expected, got text"),
        ("training", 3, "the loss is NaN"),
        ("interrupt", 130, "interrupted"),
        ("disk", 2, "data/x: No space left on device"),
        ("memory", 2, "out of memory: try fewer or smaller episodes, windows or batches"),
    ],
)
def test_each_failure_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], how: str, code: int, line: str
) -> None:
    assert main(["fake", "--count", "1", "--fail", how]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"noise from a library\nforetell: {line}\n")
    assert main(["fake", "--count", "1", "--fail", how, "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"error": line}


def test_a_bug_keeps_its_traceback_in_a_file_or_shows_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["fake", "--count", "1", "--fail", "bug"]) == 1
    (kept,) = tmp_path.glob("foretell-*.txt")
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert f"foretell: bug: KeyError: 'secret'; please report it with the traceback in {kept}" in err
    assert "Traceback" in kept.read_text()
    assert main(["fake", "--count", "1", "--fail", "bug", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["fake"], "missing: --count INT (see foretell fake --help)"),
        (["fake", "--count", "x"], "--count: a whole number expected, got 'x' (see foretell fake --help)"),
        (["fake", "--count", "1", "--share", "x"], "--share: a number expected, got 'x' (see foretell fake --help)"),
        (["fake", "--count"], "--count: a value is missing (see foretell fake --help)"),
        (["fake", "--count", "-1"], "--count: 0 or more expected, got -1"),
        (["fake", "--count", "1", "--seed", "-1"], "--seed: 0 or more expected, got -1"),
        (["fake", "--count", "1", "--counts", "2"], "did you mean --count INT"),
        (["fale"], f"no command 'fale': the commands are {', '.join(COMMANDS)}, fake; did you mean 'fake'?"),
        (["--verbose"], f"no option '--verbose': the commands are {', '.join(COMMANDS)}, fake"),
    ],
)
def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("foretell: ")
    assert line in err
    assert err.count("\n") == 1


def test_usage_errors_survive_a_box_of_another_shape() -> None:
    assert usage_error("something\nelse") == "something else"


def test_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: foretell" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"foretell {__version__}\n"
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert name in out
        assert summary in out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "fake"])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    path, summary = COMMANDS[name]
    command = getattr(importlib.import_module(path.partition(":")[0]), path.partition(":")[2])
    assert inspect.cleandoc(command.__doc__).startswith(summary)
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for option in ("--seed", "--json", "--threads", "--debug"):
        assert option in out
    assert max(map(len, out.splitlines())) <= 80


def test_threads_are_set_on_purpose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert main(["fake", "--count", "1", "--threads", "2"]) == 0
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert main(["fake", "--count", "1"]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_json_and_people_get() -> None:
    import numpy as np

    assert plain({"a": (np.float32(0.5), float("inf")), 1: Path("x"), "b": np.arange(2)}) == {
        "a": [0.5, None],
        "1": "x",
        "b": [0, 1],
    }
    assert [size(n) for n in (999, 1_234_567, 5 * 10**12)] == ["999 B", "1.2 MB", "5.0 TB"]
    assert [number(v) for v in (None, 1234567, 0.1)] == ["-", "1,234,567", "0.1"]


def foretell(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foretell", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_as_a_process_help_is_fast_and_needs_no_torch() -> None:
    started = time.perf_counter()
    done = foretell("--help")
    assert time.perf_counter() - started < 3
    assert (done.returncode, done.stderr) == (0, "")
    code = "import sys, foretell.cli.main; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert foretell("record").returncode == 2


def test_ctrl_c_ends_a_recording_with_130_and_keeps_its_episodes(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    command = [sys.executable, "-m", "foretell", "record", "two_rooms", "--episodes", "100000", "--out", str(out)]
    # As from a terminal: what a shell starts in the background is told to ignore Ctrl-C, and its children inherit that.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        deadline = time.monotonic() + 30
        while not list(out.glob("*.journal")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().endswith("foretell: interrupted")
    from foretell.episodes.store import EpisodeStore

    assert len(EpisodeStore(out)) > 0
