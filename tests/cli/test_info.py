"""`foretell info` counts what is in a store, exactly, and reads runs without loading them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from foretell.cli.main import main
from foretell.cli.summary import Ranges
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.spec import ActionSpec, Channel, Episode, Spec
from tests.end_to_end.runs import trained
from tests.training.samples import write_store

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(8, 8, 3)),
        Channel(name="state", kind="vector", shape=(2,), fields=("ticks", "level"), units=("", "m")),
        Channel(name="ecg", kind="waveform", shape=(1, 4), fields=("lead",), units=("mV",)),
    ),
    action=ActionSpec(names=("u",), low=(-1.0,)),
    hz=2.0,
)


def episode(steps: int, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    mask = np.ones((steps, 2), np.bool_)
    mask[1, 1] = False
    return Episode(
        observations={
            "camera": rng.integers(0, 255, (steps, 8, 8, 3), dtype=np.uint8),
            "state": np.stack([2**60 + np.arange(steps), np.arange(steps) - 5 * (np.arange(steps) == 1)], 1),
            "ecg": np.full((steps, 1, 4), 0.5, np.float32),
        },
        actions=rng.uniform(0, 1, (steps - 1, 1)),
        valid={"state": mask, "camera": np.arange(steps) > 0},
    )


def store(path: Path, images: str = "png") -> Path:
    with EpisodeWriter(path, SPEC, images=images, metadata={"world": "test"}) as writer:  # type: ignore[arg-type]
        for steps in (5, 10, 10):
            writer.append(episode(steps))
    return path


@pytest.mark.parametrize("images", ["png", "mp4"])
def test_a_store_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], images: str) -> None:
    path = store(tmp_path / "s", images)
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["episodes"], found["steps"], found["seconds"]) == ("store", 3, 25, 11.0)
    assert found["lengths"] == {"min": 5, "median": 10.0, "max": 10}
    assert Spec.from_json(found["spec"]) == SPEC
    assert found["metadata"] == {"world": "test"}
    assert found["bytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    camera, state, ecg = found["channels"]
    assert (camera["encoding"], camera["dtype"], camera["missing"]) == (images, "uint8", 3 / 25)
    assert (state["dtype"], state["missing"]) == ("int64", 3 / 50)
    ticks, level = state["fields"]
    assert (ticks["low"], ticks["high"], ticks["missing"]) == (2**60, 2**60 + 9, 0.0)
    expected = [v for n in (5, 10, 10) for v in range(n) if v != 1]
    assert (level["low"], level["high"], level["unit"]) == (0, 9, "m")
    assert level["mean"] == pytest.approx(np.mean(expected))
    assert (ecg["kind"], ecg["fields"][0]["low"], ecg["dtype"]) == ("waveform", 0.5, "float32")
    assert 0 <= found["actions"][0]["low"] < found["actions"][0]["high"] <= 1


def test_masks_are_read_without_the_values(tmp_path: Path) -> None:
    opened = EpisodeStore(store(tmp_path / "s"))
    assert opened.mask(1, "camera").tolist() == [False] + [True] * 9
    assert opened.mask(1, "state").tolist() == [[True, i != 1] for i in range(10)]
    assert opened.mask(-1, "ecg").shape == (10, 1)
    assert [opened.encoding(c) for c in ("camera", "state")] == ["image", "values"]


def test_people_get_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(store(tmp_path / "s"))]) == 0
    out, err = capsys.readouterr()
    for part in ("3 episodes of 5 to 10 steps", "world: test", "8 x 8 x 3", "uint8 (png)", "12%", "-1 .. inf", "lead"):
        assert part in out
    assert err == ""


def test_a_recording_in_progress_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = EpisodeWriter(tmp_path / "s", SPEC)
    writer.append(episode(5))
    assert main(["info", str(tmp_path / "s"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["channels"][0]["missing"]) == (1, 1 / 5)
    writer.close()


def test_ranges_of_nothing() -> None:
    ranges = Ranges(("x",), ("m",))
    assert ranges.missing == 0.0
    ranges.add(np.zeros((2, 1)), np.zeros(2, np.bool_))
    assert ranges.missing == 1.0
    assert ranges.fields() == [{"name": "x", "unit": "m", "low": None, "high": None, "mean": None, "missing": 1.0}]


@pytest.mark.parametrize("kind", ["absent", "empty folder", "corrupt json", "truncated parquet", "newer"])
def test_what_is_no_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / "s"
    if kind == "empty folder":
        path.mkdir()
    elif kind != "absent":
        store(path)
    if kind == "corrupt json":
        (path / "meta/info.json").write_text('{"fps": ')
    elif kind == "truncated parquet":
        (data,) = path.glob("data/*/*.parquet")
        data.write_bytes(data.read_bytes()[:-30])
    elif kind == "newer":
        ours = json.loads((path / "meta/foretell.json").read_text())
        (path / "meta/foretell.json").write_text(json.dumps(ours | {"version": 99}))
    assert main(["info", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert str(path) in err
    assert json.loads(out) == {"error": err.removeprefix("foretell: ").strip()}


def run_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"spec": SPEC.to_json(), "model": {"latent": 64, "block": 4}}))
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, path / "model.safetensors")
    (path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    return path


def test_a_run_is_described_without_loading_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder(tmp_path / "run")
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["tensors"], found["parameters"]) == ("run", 2, 17)
    assert Spec.from_json(found["spec"]) == SPEC
    assert found["logs"]["log.jsonl"]["last"] == {"step": 2, "loss": 1.5}
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    for part in ("17 values in 2 tensors", "model.latent", "8 x 8 x 3", "level [m]", "loss 1.5"):
        assert part in out


def test_a_run_says_how_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained(write_store(tmp_path / "store").path, tmp_path / "run", seed=5)
    capsys.readouterr()
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["training"]
    assert (found["training_episodes"], found["held_out_episodes"], found["finished"]) == (5, 1, True)
    assert found["config"]["seed"] == 5
    assert found["store"] == str(tmp_path / "store")
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "trained 4 of 4 steps in " in out
    assert f"on 5 episodes of {tmp_path / 'store'}, 1 held out" in out
    for part in ("objective.sigreg", "machine.torch", "fingerprint", "float32"):
        assert part in out
    (path / "train.json").write_text('{"training": 3}')
    assert main(["info", str(path)]) == 2
    assert "train.json: damaged or not of foretell" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "config.json: a JSON object expected"),
        ("model.safetensors", b"\x80\x04.", "model.safetensors: damaged or not a safetensors file"),
        ("model.safetensors", None, "model.safetensors: the weights of a run expected, there are none"),
    ],
)
def test_damaged_runs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, line: str
) -> None:
    path = run_folder(tmp_path / "run")
    (path / file).unlink() if content is None else (path / file).write_bytes(content)
    assert main(["info", str(path)]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
