"""The commands as a user runs them: record, import what others recorded, look at it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from foretell.episodes.store import EpisodeStore


def foretell(*arguments: object) -> dict[str, object]:
    """Run a command in a process of its own; what it prints with --json."""
    command = [sys.executable, "-m", "foretell", *map(str, arguments), "--json", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_record_then_repack_as_video_then_info(tmp_path: Path) -> None:
    rooms, packed = tmp_path / "rooms", tmp_path / "packed"
    made = foretell("record", "two_rooms", "--episodes", 4, "--out", rooms, "--set", "episode_steps=10", "--seed", 3)
    assert (made["episodes"], made["steps"]) == (4, 44)
    foretell("import", rooms, "--out", packed, "--images", "mp4")
    one, other = foretell("info", rooms), foretell("info", packed)
    assert one["spec"] == other["spec"]
    encodings = [[c.get("encoding") for c in found["channels"]] for found in (one, other)]  # type: ignore[attr-defined]
    assert [e[0] for e in encodings] == ["png", "mp4"]
    assert one["actions"] == other["actions"]
    before, after = EpisodeStore(rooms)[2], EpisodeStore(packed)[2]
    assert (before.actions == after.actions).all()
    changed = before.observations["camera"].astype(float) - after.observations["camera"]
    assert np.abs(changed).mean() < 5


def test_a_dataset_as_others_wrote_it(tmp_path: Path) -> None:
    """Without our own metadata a store is a plain LeRobot v3 folder."""
    rooms, packed = tmp_path / "rooms", tmp_path / "packed"
    foretell("record", "Pendulum-v1", "--episodes", 2, "--out", rooms, "--set", "max_steps=9")
    (rooms / "meta" / "foretell.json").unlink()
    made = foretell("import", rooms, "--out", packed)
    assert (made["episodes"], made["steps"]) == (2, 20)
    foreign, ours = EpisodeStore(rooms), EpisodeStore(packed)
    for i in range(2):
        for name, values in foreign[i].observations.items():
            came = ours[i].observations[name]
            assert came.dtype == values.dtype
            assert (came == values).all()
        assert (ours[i].actions == foreign[i].actions).all()
    assert ours.metadata["format"] == "lerobot"


def test_a_table_with_gaps(tmp_path: Path) -> None:
    table, out = tmp_path / "cgm.csv", tmp_path / "cgm"
    rows = [f"p{k},{5 * i},{'' if i % 7 == 3 else 100 + i}\n" for k in range(3) for i in range(50) if i % 10 != 9]
    table.write_text("patient,minute,glucose\n" + "".join(rows))
    columns = ("--episode", "patient", "--time", "minute", "--time-unit", "min", "--hz", 1 / 300)
    made = foretell("import", table, "--out", out, "--observations", "glucose", "--units", "glucose=mg/dL", *columns)
    # The last row, at minute 245, is one of those left out, so that episodes end with the one before.
    assert (made["episodes"], made["steps"]) == (3, 3 * 49)
    found = foretell("info", out)
    gone = sum(i % 7 == 3 or i % 10 == 9 for i in range(49)) / 49
    assert abs(found["channels"][0]["missing"] - gone) < 1e-12  # type: ignore[index]
