"""Model cards: they say what a run is and does not know, name nobody, and are kept up to date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from foretell.model.checkpoint import load
from foretell.training import TrainRecord, train
from foretell.training.card import NAME, write_calibration, write_card
from tests.training.samples import SMALL, SPEC, STILL, write_store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    spec = replace(SPEC, notice="Not for | anything.")
    store = write_store(tmp_path / "logs", spec)
    train(store, tmp_path / "run", replace(SMALL, holdout=0.3))
    return tmp_path / "run"


def test_a_training_leaves_a_card_that_says_what_was_trained_on_what(run: Path) -> None:
    text, record = (run / NAME).read_text(), TrainRecord.read(run)
    assert record.finished
    assert text.startswith("# Model card: run\n\n**Not for | anything.**\n")
    low, high = record.ranges["action"][0]
    assert -1 <= low < high <= 1
    for expected in (
        "8 values, 0 of them",
        "in blocks of 2 steps (0.4 s)",
        f"| learned values | {record.parameters:,} |",
        "| camera | 12 x 8 x 3 | 8 bits a colour |  |",
        f"| push |  | -1 to 1 | {low:.4g} to {high:.4g} | chosen |",
        f"| store | logs, fingerprint {record.fingerprint} |",
        f"| episodes | {len(record.training)}, the longest of 12 steps |",
        f"| held out | {len(record.held_out)} episodes |",
        "8 steps of 16 windows of 3 latents",
        "sigreg ",
        "| seed | 0 |",
        "torch ",
        "What comes after 11 steps (2.2 s) of an episode",
        f"Not calibrated yet: it cannot say when it is not to be trusted. `foretell calibrate {run} STORE`",
    ):
        assert expected in text
    assert not list(run.glob("*.tmp"))


def test_groups_are_counted_and_not_named(tmp_path: Path, run: Path) -> None:
    record = replace(TrainRecord.read(run), groups=["patient-17", "patient-4"])
    write_card(run, load(run).model, record)
    text = (run / NAME).read_text()
    assert "| groups (patients, machines) | 2, all or none" in text
    assert "patient-" not in text


def test_only_the_part_about_calibration_is_rewritten(run: Path) -> None:
    model, path = load(run).model, run / NAME
    path.write_text(path.read_text().replace("## What it is", "Seen by us.\n\n## What it is") + "\n## Ours\n\nKept.\n")
    before = path.read_text()
    for said in ("Calibrated \\1 once.", "Calibrated twice."):
        write_calibration(run, model, [said, "Second."])
        assert f"## How far to trust it\n\n{said}\n\nSecond.\n\n## Ours\n\nKept.\n" in path.read_text()
    assert path.read_text().split("## How far")[0] == before.split("## How far")[0]
    path.unlink()
    write_calibration(run, model, ["Anew."])
    assert "## How far to trust it\n\nAnew.\n" in path.read_text()


def test_a_model_without_actions_has_a_card_too(tmp_path: Path) -> None:
    train(write_store(tmp_path / "s", STILL), tmp_path / "r", SMALL)
    text = (tmp_path / "r" / NAME).read_text()
    assert "it knows no actions" in text
    assert "foretell overlap" not in text
