"""`foretell record` writes what a world shows, the same for the same seed, and refuses what it cannot do."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foretell.cli.main import main
from foretell.cli.record import world_options
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError


def test_a_built_in_world_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a/rooms"
    arguments = ["--episodes", "3", "--seed", "5", "--set", "layout=random", "--set", "episode_steps=12", "--json"]
    assert main(["record", "two_rooms", "--out", str(out), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    store = EpisodeStore(out)
    assert (result["episodes"], result["steps"], result["out"]) == (3, 39, str(out))
    assert result["fingerprint"] == store.fingerprint()
    assert store.metadata["seed"] == 5
    assert store.metadata["options"]["layout"] == "random"
    assert main(["record", "two_rooms", "--out", str(tmp_path / "b"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == result["fingerprint"]
    assert main(["record", "two_rooms", "--out", str(tmp_path / "c"), *arguments, "--seed", "6"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] != result["fingerprint"]


def test_a_gymnasium_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pendulum"
    assert main(["record", "Pendulum-v1", "--episodes", "2", "--out", str(out), "--set", "max_steps=20"]) == 0
    assert "Recorded 2 episodes (42 steps" in capsys.readouterr().out
    assert EpisodeStore(out)[1].observations["observation"].dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["two_room", "--episodes", "1"], "did you mean 'two_rooms'?"),
        (["Nowhere-v0", "--episodes", "1"], "Nowhere-v0: no such environment"),
        (["two_rooms", "--episodes", "0"], "--episodes: 1 or more expected, got 0"),
        (["two_rooms", "--episodes", "1", "--set", "layout"], "--set: KEY=VALUE expected, got 'layout'"),
        (["two_rooms", "--episodes", "1", "--set", "layot=fixed"], "no option 'layot'"),
        (["two_rooms", "--episodes", "1", "--set", "step=far"], "two_rooms"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert main(["record", *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_exists_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "absent")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["record", "two_rooms", "--episodes", "1", "--out", str(out)]) == 2
    assert f"{out}: a folder that does not exist yet expected" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["record", "two_rooms", "--episodes", "1", "--out", str(tmp_path / "file" / "out")]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'out'}: cannot be written" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("allowed", "kept"), [(60_000, True), (1_500, False)])
def test_a_disk_that_takes_no_more(tmp_path: Path, allowed: int, kept: bool) -> None:
    """A limit on the size of files stands in for a full disk: writes fail in the same places."""
    out = tmp_path / "rooms"
    command = [sys.executable, "-m", "foretell", "record", "two_rooms", "--episodes", "50", "--out", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed)),
    )
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert out.exists() == kept
    if kept:
        assert 0 < len(EpisodeStore(out)) < 50


def test_values_of_options() -> None:
    pairs = ["a=1", "b=0.5", "c=true", "d=False", "e=random", "f=1,2,3", "g=noise,gain", 'h=["x"]', "i=", "j=a=b"]
    assert world_options(pairs) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": False,
        "e": "random",
        "f": (1, 2, 3),
        "g": ("noise", "gain"),
        "h": ["x"],
        "i": "",
        "j": "a=b",
    }
    with pytest.raises(SpecError, match="a is given twice"):
        world_options(["a=1", "a=2"])
