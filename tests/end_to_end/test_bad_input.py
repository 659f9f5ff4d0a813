"""Bad input to train, evaluate and info: one line that names the place, exit code 2, nothing written over."""

from __future__ import annotations

import ast
import io
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from foretell.cli.main import main
from foretell.episodes.writer import EpisodeWriter
from foretell.spec import ActionSpec, Channel, Episode, Spec
from tests.end_to_end.runs import content, refused, rooms, tiny, trained
from tests.training.samples import write_store

Change = Callable[[Path], object]
STATE = "observation.state"
CAMERA = "observation.images.camera"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a camera, a vector and a waveform."""
    return write_store(tmp_path_factory.mktemp("mixed") / "store", episodes=4).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rooms beside its store, rooms."""
    folder = tmp_path_factory.mktemp("run")
    return trained(rooms(folder / "rooms"), folder / "run")


def table(name: str, change: Callable[[list[Any]], list[Any]], kind: pa.DataType | None = None) -> Change:
    """Rewrite a column of the data as if another program had."""

    def apply(store: Path) -> None:
        (path,) = (store / "data").rglob("*.parquet")
        data = pq.read_table(path)
        at = data.column_names.index(name)
        values = change(data.column(name).to_pylist())
        pq.write_table(data.set_column(at, name, pa.array(values, kind or data.column(name).type)), path)

    return apply


def at(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def without(name: str) -> Change:
    def apply(store: Path) -> None:
        (path,) = (store / "data").rglob("*.parquet")
        pq.write_table(pq.read_table(path).drop_columns([name]), path)

    return apply


def cut(pattern: str, share: float = 0.5) -> Change:
    def apply(folder: Path) -> None:
        (path,) = folder.rglob(pattern)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return apply


def picture(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


DEEP = Image.fromarray(np.full((12, 8), 40000, np.uint16))

STORES: dict[str, tuple[Change, str]] = {
    "NaN": (table(STATE, at(14, [float("nan"), 0.0])), "episode 1: channel state holds NaN or infinity at step 2"),
    "infinity": (table(STATE, at(3, [0.0, float("inf")])), "episode 0: channel state holds NaN or infinity at step 3"),
    "action out of bounds": (table("action", at(2, [0.0, 9.0])), "episode 0: action turn must be within [-1, 1], got"),
    "action NaN": (table("action", at(2, [0.0, float("nan")])), "episode 0: actions must be finite"),
    "actions of another number": (
        table("action", lambda rows: [[*r, 0.0] for r in rows], pa.list_(pa.float64(), 3)),
        "action: 12 rows of (2,) numbers expected, got 36 values",
    ),
    "shape": (
        table(STATE, lambda rows: [[*r, 0.0] for r in rows], pa.list_(pa.float32(), 3)),
        f"{STATE}: 12 rows of (2,) numbers expected, got 36 values",
    ),
    "type": (table(STATE, lambda rows: ["high"] * len(rows), pa.string()), STATE),
    "channel missing": (without(STATE), STATE),
    "channel missing in one episode": (
        table(STATE, at(12, None)),
        "episode 1: observation.state: (2,) numbers expected in each row, got none",
    ),
    "image missing": (
        table(CAMERA, at(13, None)),
        "episode 1: camera: the bytes of one image per step expected in observation.images.camera, got none at step 1",
    ),
    "image of another size": (table(CAMERA, at(13, picture(Image.new("RGB", (9, 12))))), "episode 1: camera: step 1"),
    "colour depth": (table(CAMERA, at(13, picture(DEEP))), "episode 1: camera: step 1"),
    "image damaged": (table(CAMERA, at(13, {"bytes": b"\x89PNG", "path": None})), "episode 1: camera: step 1"),
    "truncated data": (cut("data/*/*.parquet"), "file-000.parquet: truncated or not a parquet file"),
    "truncated list of episodes": (cut("meta/episodes/*/*.parquet", 0.9), "file-000.parquet: truncated"),
    "corrupt json": (lambda store: (store / "meta/info.json").write_text("{]"), "info.json: damaged"),
    "no folder": (shutil.rmtree, "store"),
}


@pytest.mark.parametrize("case", STORES)
def test_a_store_with_something_wrong_is_not_trained_on(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(mixed, store, ignore=shutil.ignore_patterns(".cache"))
    change, line = STORES[case]
    change(store)
    before = content(tmp_path)
    assert main(["train", str(store), "--out", str(out), "--json", *tiny()]) == 2
    printed, error = capsys.readouterr()
    said = refused(error, printed)
    assert str(store) in said
    assert line in said
    assert content(tmp_path) == before


def test_a_truncated_video_is_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Spec(observations=(Channel(name="camera", kind="image", shape=(16, 16, 3)),), hz=5)
    with EpisodeWriter(tmp_path / "store", spec, images="mp4") as writer:
        for _ in range(2):
            frames = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8)
            writer.append(Episode(observations={"camera": frames}, actions=np.zeros((11, 0))))
    cut("*.mp4", 0.6)(tmp_path / "store")
    assert main(["train", str(tmp_path / "store"), "--out", str(tmp_path / "run"), "--json", *tiny()]) == 2
    assert ".mp4" in refused(*reversed(capsys.readouterr()))
    assert not (tmp_path / "run").exists()


def test_a_store_whose_files_hold_pickles_is_not_executed(mixed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed, store, ignore=shutil.ignore_patterns(".cache"))
    (data,) = (store / "data").rglob("*.parquet")
    data.write_bytes(bomb(tmp_path / "boom"))
    assert main(["train", str(store), "--out", str(tmp_path / "run"), *tiny()]) == 2
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--length", "30"], "a window of 30 steps, 2 apart, needs episodes of at least 59 steps; the longest of"),
        (["--batch", "7"], "an even batch expected, got 7"),
        (["--model.latent", "-1"], "foretell: model: latent must be a whole number of at least 1, got -1"),
        (["--model.latent", "many"], "--model.latent: a whole number expected, got 'many'"),
        (["--objective.sigreg", "-1"], "sigreg must be 0 or more, got -1"),
        (["--learning-rate", "nan"], "learning_rate must be above 0, got nan"),
        (["--device", "abacus"], "device 'abacus': auto, cpu, cuda"),
        (["--precision", "float8"], "--precision: one of"),
        (["--resume"], "a run to resume expected, there is none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    assert main(["train", str(mixed), "--out", str(tmp_path / "run"), "--json", *tiny(), *options]) == 2
    assert line in refused(*reversed(capsys.readouterr()))
    assert list(tmp_path.iterdir()) == []


def test_short_episodes_are_left_out_and_refused_where_there_are_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),), action=ActionSpec(names=("u",)), hz=1)
    with EpisodeWriter(tmp_path / "store", spec) as writer:
        for steps in (2, 3, 4):
            writer.append(Episode(observations={"x": np.zeros((steps, 1))}, actions=np.zeros((steps - 1, 1))))
    assert main(["train", str(tmp_path / "store"), "--out", str(tmp_path / "run"), "--json", *tiny()]) == 2
    assert "needs episodes of at least 5 steps; the longest of 2 has" in refused(*reversed(capsys.readouterr()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["run", "folder", "file", "dangling link"])
def test_what_out_names_is_not_written_over(
    mixed: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "run":
        shutil.copytree(run, out)
    elif kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "absent")
    before = content(tmp_path), sorted(tmp_path.rglob("*"))
    assert main(["train", str(mixed), "--out", str(out), "--json", *tiny()]) == 2
    assert f"{out}: exists; choose another --out" in refused(*reversed(capsys.readouterr()))
    assert (content(tmp_path), sorted(tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("place", ["under a file", "where nobody may write"])
def test_folders_that_cannot_be_made(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run" if place == "under a file" else Path("/proc/foretell/run")
    assert main(["train", str(mixed), "--out", str(out), "--json", *tiny()]) == 2
    said = refused(*reversed(capsys.readouterr()))
    assert str(out) in said or str(out.parent) in said


def test_a_cache_that_cannot_be_written(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed, store, ignore=shutil.ignore_patterns(".cache"))
    (store / ".cache").write_text("")
    command = ["train", str(store), "--out", str(tmp_path / "run"), "--json", *tiny()]
    assert main(command) == 2
    said = refused(*reversed(capsys.readouterr()))
    assert f"{store / '.cache'}: the window cache cannot be written" in said
    assert "--cache" in said
    assert main([*command, "--cache", str(tmp_path / "elsewhere")]) == 0


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for a full disk: writes fail in the same places.

    Over before the test is: its report may go to a file that is larger already.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("allowed", "place"), [(2_000, "store/.cache"), (16_000, "run/resume/state.safetensors")])
def test_a_disk_that_is_full_from_the_start(
    mixed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    allowed: int,
    place: str,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed, store, ignore=shutil.ignore_patterns(".cache"))
    with small_files(allowed):
        assert main(["train", str(store), "--out", str(tmp_path / "run"), "--json", *tiny()]) == 2
    said = refused(*reversed(capsys.readouterr()))
    assert str(tmp_path / place) in said
    assert "File too large" in said
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    trained(mixed, out)
    note = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps(note | {"steps": 2, "finished": False}))
    before = content(out)
    capsys.readouterr()
    with small_files((out / "resume/state.safetensors").stat().st_size - 100):
        assert main(["train", str(mixed), "--out", str(out), "--resume", "--json", *tiny()]) == 2
    assert f"{out}/resume/state.safetensors: File too large" in refused(*reversed(capsys.readouterr()))
    assert content(out) == before


def bomb(target: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return b"cbuiltins\nopen\n(V" + str(target).encode() + b"\nVw\ntR."


def change_json(name: str, **changes: Any) -> Change:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def foreign(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    save_file(tensors | {name: tensors[name] * float("nan")}, folder / "model.safetensors")


RUNS: dict[str, tuple[Change, str]] = {
    "no folder": (shutil.rmtree, "a run folder expected, there is none"),
    "no configuration": (lambda r: (r / "config.json").unlink(), "config.json: no such file"),
    "corrupt configuration": (lambda r: (r / "config.json").write_text("{"), "config.json: damaged"),
    "another's configuration": (change_json("config.json", format=None), "not a checkpoint of foretell"),
    "a newer version": (
        change_json("config.json", format=99, foretell="9.0"),
        "got 99, written by foretell 9.0; upgrade",
    ),
    "an import path": (change_json("config.json", parts={"os.system": {}}), "one of the kinds"),
    "no weights": (lambda r: (r / "model.safetensors").unlink(), "weights expected, there are none"),
    "truncated weights": (cut("model.safetensors", 0.9), "damaged or not a safetensors file"),
    "foreign weights": (foreign, "model.safetensors"),
    "a pickle for weights": (
        lambda r: (r / "model.safetensors").write_bytes(bomb(r.parent / "boom")),
        "damaged or not a safetensors file",
    ),
    "weights that are not finite": (not_finite, "holds NaN or infinity"),
    "no record": (lambda r: (r / "train.json").unlink(), "train.json: the record of a training expected"),
    "corrupt record": (cut("train.json"), "train.json: damaged"),
    "a newer record": (change_json("train.json", format=2), "of a newer foretell; upgrade"),
    "episodes gone": (change_json("train.json", store="/nowhere/rooms"), "say where they are with --store"),
    "other episodes": (change_json("train.json", fingerprint="abc"), "fingerprint abc"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_with_something_wrong_is_not_evaluated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    change, line = RUNS[case]
    change(broken)
    before = content(tmp_path)
    assert main(["evaluate", str(broken), "--json"]) == 2
    said = refused(*reversed(capsys.readouterr()))
    assert line in said
    assert str(broken) in said
    assert content(tmp_path) == before


def test_a_store_of_another_spec_or_other_episodes_is_refused(
    mixed: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rooms(tmp_path / "other", 6, "--seed", "1")
    capsys.readouterr()
    for store, line in ((mixed, "observation state is unknown"), (other, "the episodes that"), (run, "info.json")):
        assert main(["evaluate", str(run), "--store", str(store), "--json"]) == 2
        said = refused(*reversed(capsys.readouterr()))
        assert line in said
        assert str(store) in said
    command = ["train", str(other), "--out", str(run), "--resume", "--json", *tiny()]
    assert main(command) == 2
    assert "with other episodes" in refused(*reversed(capsys.readouterr()))


def test_a_world_that_the_run_does_not_know_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--world", "three_rooms", "--json"]) == 2
    assert "two_rooms" in refused(*reversed(capsys.readouterr()))
    assert main(["evaluate", str(run), "--episodes", "0", "--json"]) == 2
    assert "--episodes: 1 or more expected, got 0" in refused(*reversed(capsys.readouterr()))


def test_episodes_of_no_built_in_world_are_not_planned_in(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained(mixed, tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(out), "--json"]) == 2
    assert "name one with --world: two_rooms" in refused(*reversed(capsys.readouterr()))
    assert main(["evaluate", str(out), "--world", "two_rooms", "--json"]) == 2
    assert "the world two_rooms: " in refused(*reversed(capsys.readouterr()))


def test_nothing_in_the_package_reads_pickles_or_runs_text() -> None:
    """import_module is called with names that stand in the code, never with one that a file holds."""
    import foretell

    unsafe = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for path in Path(foretell.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not unsafe & {n.split(".")[0] for n in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__", "compile"), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in (("torch", "load"), ("torch", "save"), ("np", "load")), path
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path
