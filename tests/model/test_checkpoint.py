"""Checkpoints: bit for bit the same after loading, refused in one line when damaged, never executed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from foretell.errors import CheckpointError, SpecError
from foretell.model import checkpoint
from foretell.model.checkpoint import CONFIG, WEIGHTS
from foretell.model.readout import Readout
from foretell.spec import Channel, Spec
from tests.model.samples import SPEC, STILL, actions, masks, model, observed, statistics

ROOT = Path(__file__).resolve().parents[2]


def readout(channel: str = "level", seed: int = 1) -> Readout:
    torch.manual_seed(seed)
    head = Readout(channel=channel, fields=("a", "b"), units=("m", ""), latent=6, width=8)
    head.normalise_by(torch.randn(20, 1, 6), 5 * torch.randn(20, 2))
    return head


def saved(folder: Path, **settings: Any) -> Path:
    checkpoint.save(folder, model(statistics=statistics(), **settings), {"readout.level": readout()})
    return folder


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[k].dtype == theirs[k].dtype and torch.equal(mine[k], theirs[k]) for k in mine
    )


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def refused(folder: Path, file: str, message: str = ".") -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(folder)
    assert str(caught.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", [SPEC, STILL], ids=["acting", "still"])
@pytest.mark.parametrize("history", [1, 2])
def test_what_is_loaded_is_bit_for_bit_what_was_saved(tmp_path: Path, spec: Spec, history: int) -> None:
    world = model(spec, history=history, statistics=statistics(spec)).train()
    parts = {"readout.level": readout(), "readout.speed": readout("speed", 2)}
    checkpoint.save(tmp_path / "run", world, parts)
    found = checkpoint.load(tmp_path / "run")
    assert found.model.spec == spec
    assert found.model.config == world.config
    assert equal(found.model, world)
    assert found.parts.keys() == parts.keys()
    assert all(equal(found.parts[n], p) for n, p in parts.items())
    assert not any(m.training for m in (found.model, *found.parts.values()))
    world.eval()
    shown, seen = observed(spec), masks(spec)
    z = world.encode(shown, seen)
    assert torch.equal(found.model.encode(shown, seen), z)
    assert torch.equal(found.model.predict(z, actions(spec, 2, 3)), world.predict(z, actions(spec, 2, 3)))
    head = found.parts["readout.level"]
    assert isinstance(head, Readout)
    assert head.to_json() == parts["readout.level"].to_json()
    assert torch.equal(head(z), parts["readout.level"](z))


def test_saving_again_writes_over_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path)
    checkpoint.save(tmp_path, model(STILL, latent=3, seed=4))
    found = checkpoint.load(tmp_path)
    assert equal(found.model, model(STILL, latent=3, seed=4))
    assert not found.parts
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS, "notes.txt"]


def test_parts_whose_names_hold_dots_stay_apart(tmp_path: Path) -> None:
    parts = {"readout.a": readout("a", 1), "readout.a.b": readout("a.b", 2), "readout.a-b": readout("a-b", 3)}
    checkpoint.save(tmp_path, model(), parts)
    found = checkpoint.load(tmp_path).parts
    assert all(equal(found[n], p) for n, p in parts.items())


def test_parts_that_cannot_be_loaded_again_are_not_saved(tmp_path: Path) -> None:
    for parts in ({"head": readout()}, {"readout.level": model()}, {"readout": readout(), "readout.a": readout()}):
        with pytest.raises(SpecError, match=r"^part[^\n]+$"):
            checkpoint.save(tmp_path, model(), parts)
    assert not list(tmp_path.iterdir())


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: [config.pop(n) for n in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2, foretell="9.1"), "format 1 expected, got 2, written by foretell 9.1; upgrade"),
        (lambda c: c.update(format="1"), "not a checkpoint of foretell"),
        (lambda c: c.update(format=True), "not a checkpoint of foretell"),
        (without("format"), "not a checkpoint of foretell"),
        (without("spec"), "'spec' is missing"),
        (without("model"), "'model' is missing"),
        (without("parts"), "'parts' is missing"),
        (lambda c: c["spec"].pop("observations"), "observations"),
        (lambda c: c["spec"].update(hz="fast"), "hz|fast"),
        (lambda c: c["spec"]["observations"][0].update(kind="sound"), "kind must be one of"),
        (lambda c: c.update(model=[]), "an object expected"),
        (lambda c: c["model"].update(latent=0), "latent must be a whole number"),
        (lambda c: c["model"].update(wings=2), "wings"),
        (lambda c: c.update(parts=["readout.level"]), "an object expected"),
        (lambda c: c["parts"].update({"os.system": {}}), "part 'os.system': one of the kinds"),
        (lambda c: c["parts"].update({"readout.x": 3}), "an object expected"),
        (lambda c: c["parts"]["readout.level"].pop("units"), "not a readout: KeyError"),
        (lambda c: c["parts"]["readout.level"].update(width=0), "width must be a whole number"),
    ],
)
def test_a_wrong_description_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(saved(tmp_path), change)
    refused(tmp_path, CONFIG, message)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1', b"[" * 100_000, b'{"format": ' + b"9" * 5000]
)
def test_a_file_that_is_no_description_is_refused(tmp_path: Path, content: bytes) -> None:
    (saved(tmp_path) / CONFIG).write_bytes(content)
    refused(tmp_path, CONFIG)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [p for key, value in items for p in [(*path, key), *leaves(value, (*path, key))]]


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_one_value_is_replaced_by_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "altered"
    folder.mkdir(exist_ok=True)
    config = json.loads((whole / CONFIG).read_text())
    *path, last = data.draw(st.sampled_from(leaves(config)))
    place = config
    for key in path:
        place = place[key]
    place[last] = data.draw(LEAVES)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes((whole / WEIGHTS).read_bytes())
    loads_or_refuses(folder)


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_damaged_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    content = bytearray((whole / WEIGHTS).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    # What the header says is where damage is subtle.
    for place in data.draw(st.lists(st.integers(0, header + 50), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (folder / CONFIG).write_bytes((whole / CONFIG).read_bytes())
    (folder / WEIGHTS).write_bytes(content)
    loads_or_refuses(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("whole"))


def loads_or_refuses(folder: Path) -> None:
    try:
        found = checkpoint.load(folder)
    except CheckpointError as error:
        message = str(error)
    else:
        assert all(bool(v.isfinite().all()) for v in found.model.state_dict().values())
        return
    assert str(folder) in message
    assert "\n" not in message


class TestWeights:
    def test_missing(self, tmp_path: Path) -> None:
        (saved(tmp_path) / WEIGHTS).unlink()
        refused(tmp_path, WEIGHTS, "weights expected, there are none")
        (tmp_path / CONFIG).unlink()
        refused(tmp_path, CONFIG, "no such file")

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"run folder expected, there is none; `foretell train` makes one$"):
            checkpoint.load(tmp_path / "nowhere")

    @pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        content = (saved(tmp_path) / WEIGHTS).read_bytes()
        kept = content[: int(len(content) * keep) if isinstance(keep, float) else keep]
        (tmp_path / WEIGHTS).write_bytes(kept)
        refused(tmp_path, WEIGHTS, "damaged or not a safetensors file")

    def test_of_something_else(self, tmp_path: Path) -> None:
        save_file({"lm_head.weight": torch.zeros(3, 3)}, saved(tmp_path) / WEIGHTS)
        refused(tmp_path, WEIGHTS, r"model: .+ is missing \(\d+ missing, 0 unknown\)")

    def test_of_another_model(self, tmp_path: Path) -> None:
        rewrite(saved(tmp_path), lambda c: c["model"].update(latent=7))
        refused(tmp_path, WEIGHTS, r"model: .+: torch.float32 \(.*7.*\) expected, got torch.float32 \(.*6.*\)")

    def test_of_another_type(self, tmp_path: Path) -> None:
        self.alter(saved(tmp_path), lambda name, value: value.double())
        refused(tmp_path, WEIGHTS, "torch.float32 .* expected, got torch.float64")

    @pytest.mark.parametrize("part", ["model", "readout.level"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, tmp_path: Path, part: str, value: float) -> None:
        tensors = load_file(saved(tmp_path) / WEIGHTS)
        name = next(n for n in tensors if n.startswith(part) and n.endswith("weight"))
        tensors[name][-1, -1] = value
        save_file(tensors, tmp_path / WEIGHTS)
        refused(tmp_path, WEIGHTS, f"{name.removeprefix(part + '.')} holds NaN or infinity")

    @pytest.mark.parametrize("part", ["model", "readout.level"])
    def test_one_missing_or_too_many(self, tmp_path: Path, part: str) -> None:
        tensors = load_file(saved(tmp_path) / WEIGHTS)
        name = next(n for n in tensors if n.startswith(part))
        save_file({n: v for n, v in tensors.items() if n != name}, tmp_path / WEIGHTS)
        refused(tmp_path, WEIGHTS, r"is missing \(1 missing, 0 unknown\)")
        save_file(tensors | {f"{part}.more": torch.zeros(1)}, tmp_path / WEIGHTS)
        refused(tmp_path, WEIGHTS, r"more is unknown \(0 missing, 1 unknown\)")

    @staticmethod
    def alter(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({n: change(n, v) for n, v in tensors.items()}, folder / WEIGHTS)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", ["pickle", "torch", "numpy"])
def test_no_pickle_is_ever_loaded(tmp_path: Path, write: str) -> None:
    trap, sprung = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    folder = saved(tmp_path / "run")
    with (folder / WEIGHTS).open("wb") as file:
        if write == "pickle":
            pickle.dump({"model.x": trap}, file)
        elif write == "torch":
            torch.save({"model.x": trap}, file)
        else:
            np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    refused(folder, WEIGHTS, "damaged or not a safetensors file")
    assert not sprung.exists()
    if write == "pickle":
        # The trap does work.
        pickle.loads((folder / WEIGHTS).read_bytes())
        assert sprung.exists()


def test_a_description_cannot_name_a_class(tmp_path: Path) -> None:
    for name in ("pathlib:Path", "foretell.model.readout:Readout", "model", "temporal_distances", ""):
        rewrite(saved(tmp_path), lambda c, name=name: c.update(parts={name: {}}))
        refused(tmp_path, CONFIG, "one of the kinds")


KILLS = """
import os, signal, sys, time
from pathlib import Path
import torch
from foretell.model import checkpoint
from tests.model.samples import model

folder = Path(sys.argv[1])
worlds = [model(seed=seed, features=64) for seed in range(3)]
began = time.perf_counter()
checkpoint.save(folder, worlds[0])
once = time.perf_counter() - began
found = set()
for kill in range(24):
    saver = os.fork()
    if not saver:
        while True:
            checkpoint.save(folder, worlds[1])
            checkpoint.save(folder, worlds[2])
    time.sleep(once * kill / 6)
    os.kill(saver, signal.SIGKILL)
    os.waitpid(saver, 0)
    weights = checkpoint.load(folder).model.state_dict()
    same = [all(torch.equal(weights[k], v) for k, v in w.state_dict().items()) for w in worlds]
    assert sum(same) == 1, same
    found.add(same.index(True))
print(sorted(found))
"""


def test_a_kill_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    """Killed at 24 moments spread over what four saves take, each time one whole model is there."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert {1, 2} <= set(json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("point", "occurrence"),
    [("write_bytes", 1), ("write_text", 1), ("replace", 1), ("replace", 2), *(("fsync", i) for i in (1, 2, 3, 4))],
)
def test_a_crash_at_each_point_of_a_save_leaves_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, occurrence: int
) -> None:
    """As a kill does, nothing is cleaned up; new parts are added by the save that crashes."""
    checkpoint.save(tmp_path, model(seed=0))
    owner: Any = Path if point.startswith("write") else os
    original, calls = getattr(owner, point), 0

    def crash(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == occurrence:
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(owner, point, crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, model(seed=1), {"readout.level": readout()})
    monkeypatch.undo()
    found = checkpoint.load(tmp_path)
    assert any(equal(found.model, model(seed=seed)) for seed in (0, 1))
    checkpoint.save(tmp_path, model(seed=2))
    assert equal(checkpoint.load(tmp_path).model, model(seed=2))


def test_a_folder_that_cannot_be_written_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, seed=0)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, model(seed=1))
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    assert equal(checkpoint.load(tmp_path).model, model(seed=0, statistics=statistics()))


def test_loads_onto_the_device_asked_for(tmp_path: Path) -> None:
    found = checkpoint.load(saved(tmp_path), "meta")
    assert {p.device.type for m in (found.model, *found.parts.values()) for p in m.parameters()} == {"meta"}


def test_spec_with_everything_survives(tmp_path: Path) -> None:
    spec = Spec(
        observations=(Channel(name="t.x", kind="vector", shape=(1,), fields=("über",), units=("°C",)),),
        action=SPEC.action,
        hz=1 / 3,
        quantities=(Channel(name="level", kind="vector", shape=(2,)),),
    )
    checkpoint.save(tmp_path, model(spec))
    assert checkpoint.load(tmp_path).model.spec == spec


def test_half_precision_keeps_what_was_measured_and_predicts_nearly_the_same(tmp_path: Path) -> None:
    world, head = model(statistics=statistics()), readout()
    checkpoint.save(tmp_path / "whole", world, {"readout.level": head})
    checkpoint.save(tmp_path / "half", world, {"readout.level": head}, half=True)
    stored = load_file(tmp_path / "half" / WEIGHTS)
    learned = {f"model.{k}" for k, _ in world.named_parameters()}
    learned |= {f"readout.level.{k}" for k, _ in head.named_parameters()}
    assert {k for k, v in stored.items() if v.dtype == torch.float16} == learned
    found = checkpoint.load(tmp_path / "half")
    assert {v.dtype for v in found.model.state_dict().values() if v.is_floating_point()} == {torch.float32}
    world.eval()
    shown, seen = observed(SPEC), masks(SPEC)
    torch.testing.assert_close(found.model.encode(shown, seen), world.encode(shown, seen), atol=2e-2, rtol=2e-2)
    # Halved once, it is the same when it is saved again.
    checkpoint.save(tmp_path / "again", found.model, found.parts, half=True)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "half" / WEIGHTS).read_bytes()


def test_buffers_that_a_module_names_as_fitted_are_halved_too(tmp_path: Path) -> None:
    world = model()
    checkpoint.save(tmp_path, world, half=True)
    before = load_file(tmp_path / WEIGHTS)
    world.predictor.fitted = ("spread",)
    world.predictor.register_buffer("spread", torch.full((3,), 0.1))
    checkpoint.save(tmp_path, world, half=True)
    after = load_file(tmp_path / WEIGHTS)
    assert after.pop("model.predictor.spread").dtype == torch.float16
    assert {k: v.dtype for k, v in after.items()} == {k: v.dtype for k, v in before.items()}


def test_values_too_large_for_half_precision_stay_whole(tmp_path: Path) -> None:
    world = model()
    with torch.no_grad():
        world.predictor.enter.weight[0, 0] = 1e6
    checkpoint.save(tmp_path / "run", world, half=True)
    found = checkpoint.load(tmp_path / "run").model.predictor
    assert torch.equal(found.enter.weight, world.predictor.enter.weight)
    assert torch.equal(found.leave[2].weight, world.predictor.leave[2].weight.half().float())
