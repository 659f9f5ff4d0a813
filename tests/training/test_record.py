"""train.json: comes back as it was written, and is refused where it cannot be what a training wrote."""

from __future__ import annotations

import json

import pytest

from foretell.errors import CheckpointError, SpecError
from foretell.training import TrainRecord
from foretell.training.record import describe
from tests.training.samples import SMALL

RECORD = TrainRecord(
    config=SMALL,
    store="/data/rooms",
    fingerprint="abc",
    training=[0, 2],
    held_out=[1],
    device="cpu",
    precision="float32",
    steps=4,
    seconds=2.0,
    machine=describe(),
)


def test_it_comes_back(tmp_path):
    RECORD.write(tmp_path)
    assert TrainRecord.read(tmp_path) == RECORD
    written = json.loads((tmp_path / "train.json").read_text())
    assert (written["format"], written["finished"], written["seed"]) == (1, False, SMALL.seed)
    assert written["frames_per_second"] == 4 * SMALL.batch * SMALL.length / 2.0
    assert {"torch", "python", "foretell", "threads"} <= written["machine"].keys()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "format 1 expected, got 2, of a newer foretell; upgrade"),
        ({"training": []}, "at least one to train on"),
        ({"training": [0, "1"]}, "numbers of episodes expected"),
        ({"training": [0, 1]}, "each episode once expected"),
        ({"held_out": None}, "held_out: list expected, got None"),
        ({"steps": "4"}, "steps: int expected, got '4'"),
        ({"seconds": None}, "seconds: a number expected"),
        ({"colour": 1}, "colour"),
        ({"config": {}}, "not a configuration"),
    ],
)
def test_what_no_training_wrote_is_refused(tmp_path, change, match):
    RECORD.write(tmp_path)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=match) as refused:
        TrainRecord.read(tmp_path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\x80\x04."])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"train\.json"):
        TrainRecord.read(tmp_path)


def test_it_is_checked_when_made():
    with pytest.raises(SpecError, match="each episode once"):
        TrainRecord(**{**vars(RECORD), "held_out": [0]})
