"""`foretell train`: options out of the configuration, progress, exit codes, and one object or a summary at the end."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from rich.console import Console

from foretell.cli import train as module
from foretell.cli.main import main
from foretell.cli.train import figures, watching
from foretell.model.checkpoint import read_tensors
from foretell.training import TrainConfig, TrainRecord
from foretell.training.config import flat
from foretell.training.log import read_log
from tests.end_to_end.runs import tiny, trained
from tests.training.samples import write_store

RECORD = {"step": 20, "loss": 1.5, "sigreg": 0.25, "spread": 0.9, "learning_rate": 1e-3, "frames_per_second": 4321.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def test_a_run_for_programs(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs/a"
    assert main(["train", str(store), "--out", str(out), "--json", "--seed", "7", *tiny()]) == 0
    printed, said = capsys.readouterr()
    result = json.loads(printed)
    record = TrainRecord.read(out)
    assert said == ""
    assert (result["out"], result["store"], result["seed"]) == (str(out), str(store), 7)
    assert (result["steps"], result["episodes"], result["held_out"]) == (4, len(record.training), len(record.held_out))
    assert (result["device"], result["precision"], result["ranks"]) == ("cpu", "float32", 1)
    assert result["parameters"] == record.parameters > 0
    assert result["fingerprint"] == record.fingerprint
    assert result["last"] == read_log(out / "log.jsonl")[-1]
    assert (record.config.seed, record.config.model.latent, record.config.steps) == (7, 8, 4)


def test_a_run_for_people(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    trained(store, out)
    summary, end, trust, following = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"Trained 0\.\d\d M parameters on 5 episodes, 1 held out, to {out}: 4 steps in \d+ s,"
        r" [\d,]+ frames a second \(cpu, float32\)",
        summary,
    )
    assert re.match(r"in the end loss [\d.]+, prediction .*, spread [\d.]+$", end)
    assert trust == "not calibrated: calibration: at least 3 episodes expected, there are 1"
    assert following == f"next: foretell evaluate {out}"


def test_the_help_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    for name, _ in flat(TrainConfig().to_json()):
        option = "--" + name.replace("_", "-")
        assert f" {option} " in text
        # After the option and its kind comes a word of help, not the default at once.
        assert not re.search(rf" {re.escape(option)} (?:[A-Z]+ |\{{\S+\}} )?\(default", text), option


def interrupt(console: Console, steps: int) -> Callable[[int, Mapping[str, float]], None]:
    """In place of progress: Ctrl-C after the second step."""

    def step(done: int, record: Mapping[str, float]) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    return step


def test_ctrl_c_saves_and_resume_goes_on(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = trained(store, tmp_path / "whole"), tmp_path / "cut"
    command = ["train", str(store), "--out", str(cut), *tiny()]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_lines", interrupt)
        assert main(command) == 130
    assert capsys.readouterr().err == f"foretell: interrupted: the same command with --resume goes on with {cut}\n"
    assert TrainRecord.read(cut).steps == 2
    assert main(command) == 2
    assert "--resume to go on" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    one, other = (read_tensors(run / "resume/state.safetensors")[0] for run in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 4


def test_ctrl_c_before_there_is_anything_to_resume(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foretell.training.train", stop)
    assert main(["train", str(store), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "foretell: interrupted\n"


def test_collapse_is_exit_code_3_with_what_to_do(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"objective.sigreg": 0, "objective.inverse": 0, "objective.settle": 0, "objective.ramp": 1}
    options = tiny(steps=300, **{"learning-rate": 0.02, "weight-decay": 0.3, "log-steps": 20}, **weights)
    assert main(["train", str(store), "--out", str(tmp_path / "run"), *options]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the latents have collapsed: spread" in said
    assert "raise sigreg (now 0) or inverse (now 0)" in said


def test_a_loss_that_is_not_finite_is_exit_code_3(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from foretell.objective.objective import Objective

    forward = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda *given: {k: v * float("nan") for k, v in forward(*given).items()})
    assert main(["train", str(store), "--out", str(tmp_path / "run"), *tiny()]) == 3
    said = capsys.readouterr().err
    assert "the loss is not finite at step 1; lower learning_rate (now 0.001)" in said
    assert said.count("\n") == 1


def test_a_bar_shows_time_left_speed_and_losses() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with watching(console, 200) as step:
        step(20, RECORD)
    shown = file.getvalue()
    assert "reading the episodes" in shown
    assert "training" in shown
    assert "20/200" in shown
    assert "4,321 frames/s, loss 1.5, sigreg 0.25, spread 0.9" in shown


def test_where_nobody_watches_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    now = iter([0.0, 5.0, 40.0, 40.0, 50.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with watching(Console(file=file), 200) as step:
        step(1, {})
        for done in (20, 40, 60):
            step(done, RECORD)
    assert file.getvalue() == f"step 40 of 200: {figures(RECORD)}\n"
    assert figures({}) == ""


def test_of_several_processes_the_first_speaks(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["info", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "store"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["info", str(store), "--json"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["info", str(tmp_path / "absent"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"foretell: rank 1: {tmp_path / 'absent'}: ")
