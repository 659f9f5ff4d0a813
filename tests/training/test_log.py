"""The log: whole lines, trackers that an extra installs, and what is said where one is missing."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest

from foretell.errors import SpecError
from foretell.training import train
from foretell.training.log import Log, read_log
from tests.training.samples import SMALL, STILL, write_store


def test_records_after_the_resumed_step_and_half_lines_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n[3]\n{"loss": 1.0}\n{"step": 3, "lo')
    assert [r["step"] for r in read_log(path)] == [1, 2]
    with Log(tmp_path, "none", {}, step=1) as log:
        log.write({"step": 2, "loss": math.nan})
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n'
    assert read_log(tmp_path / "absent") == []


def test_tensorboard_holds_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    config = dataclasses.replace(SMALL, steps=4, tracker="tensorboard")
    train(write_store(tmp_path / "store", STILL), run, config)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    log = read_log(run / "log.jsonl")
    assert set(events.Tags()["scalars"]) == log[0].keys() - {"step"}
    curve = events.Scalars("loss")
    assert [e.step for e in curve] == [1, 2, 3, 4]
    assert [e.value for e in curve] == pytest.approx([r["loss"] for r in log])


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch, tracker):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == tracker else found(name, *more)
    )
    store = write_store(tmp_path / "store", STILL)
    with pytest.raises(SpecError, match=rf"{tracker} is not installed: pip install 'foretell\[track\]'"):
        train(store, tmp_path / "run", dataclasses.replace(SMALL, tracker=tracker))
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_gets_settings_and_records(tmp_path, monkeypatch):
    """A stand-in for the package, which needs an account to do anything."""

    class Run:
        def __init__(self):
            self.points, self.finished = [], False

        def log(self, values, step):
            self.points.append((step, values))

        def finish(self):
            self.finished = True

    class Package:
        run = Run()

        @classmethod
        def init(cls, **settings):
            cls.settings = settings
            return cls.run

    monkeypatch.setitem(sys.modules, "wandb", Package)
    with Log(tmp_path, "wandb", {"steps": 3}) as log:
        log.write({"step": 1, "loss": 0.5})
    assert Package.settings["config"] == {"steps": 3}
    assert Package.settings["name"] == tmp_path.name
    assert (Package.run.points, Package.run.finished) == ([(1, {"loss": 0.5})], True)
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": 0.5}


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Log(tmp_path, "wandb", {}) as log:
        log.write({"step": 1, "loss": 0.5})
    assert list(tmp_path.glob("wandb/offline-run-*"))
