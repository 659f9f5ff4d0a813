"""`foretell import` finds the importer that fits, stores what it gives, and leaves nothing behind when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foretell.cli import import_ as module
from foretell.cli.main import main
from foretell.episodes.store import EpisodeStore

TABLE = "id,t,x,y,u,note\na,0,1,2.5,0,hi\na,1,,3,1,hi\na,3,4,4,0,hi\nb,10,1,1,0,hi\nb,11,2,1,,hi\n"
COLUMNS = ["--episode", "id", "--time", "t", "--observations", "x", "--quantities", "y", "--actions", "u"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    return path


def test_a_table_and_all_its_options(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    more = ["--units", "x=mg/dL,u=U", "--bounds", "u=0:2.5", "--exogenous", "u", "--time-unit", "min", "--json"]
    assert main(["import", str(table), "--out", str(out), *COLUMNS, *more]) == 0
    result = json.loads(capsys.readouterr().out)
    store = EpisodeStore(out)
    assert (result["episodes"], result["steps"]) == (2, 5)
    assert result["spec"] == store.spec.to_json()
    assert store.spec.channel("state").units == ("mg/dL",)
    assert [c.name for c in store.spec.quantities] == ["quantities"]
    assert (store.spec.action.names, store.spec.action.high, store.spec.action.units) == (("u",), (2.5,), ("U",))
    assert store.spec.action.exogenous == ("u",)
    assert store.metadata["time_unit"] == "min"
    first = store[0]
    assert first.observations["state"].dtype == np.int64
    assert first.valid["state"][:, 0].tolist() == [True, False, True]
    assert first.times is not None
    assert first.times.tolist() == [0, 1, 3]


def test_a_store_is_repacked_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["record", "two_rooms", "--episodes", "3", "--out", str(first), "--set", "episode_steps=5"]) == 0
    assert main(["import", str(first), "--out", str(second)]) == 0
    one, other = EpisodeStore(first), EpisodeStore(second)
    assert one.spec == other.spec
    assert one.fingerprint() == other.fingerprint()
    assert other.metadata["world"] == "two_rooms"


def test_a_notice_is_kept_and_leaves_the_fingerprint_as_it_is(table: Path, tmp_path: Path) -> None:
    for name, notice in (("plain", ()), ("noted", ("--notice", "Not for use."))):
        assert main(["import", str(table), "--out", str(tmp_path / name), *COLUMNS, *notice]) == 0
    plain, noted = EpisodeStore(tmp_path / "plain"), EpisodeStore(tmp_path / "noted")
    assert (plain.spec.notice, noted.spec.notice) == ("", "Not for use.")
    assert plain.fingerprint() == noted.fingerprint()
    again = tmp_path / "again"
    assert main(["import", str(noted.path), "--out", str(again)]) == 0
    assert EpisodeStore(again).spec.notice == "Not for use."


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--observations", "z"], "t.csv: no column 'z' for --observations"),
        (["--observations", "x,,y"], "--observations: column names between commas expected, got 'x,,y'"),
        (["--observations", "x", "--observations", "y"], "--observations: channel 'state' is given twice"),
        (["--observations", "note"], "t.csv: column note, row 1: a number expected, got 'hi'"),
        (["--observations", "x", "--units", "x"], "--units: COL=VALUE expected, got 'x'"),
        (["--observations", "x", "--actions", "u", "--bounds", "u=2:1"], "--bounds: u=LOW:HIGH with LOW below HIGH"),
        (["--observations", "x", "--actions", "u", "--exogenous", "x"], "exogenous: 'x' is not an action; the actions"),
        (["--observations", "x", "--actions", "u", "--bounds", "u=2"], "--bounds: u=LOW:HIGH with LOW below HIGH"),
        (["--observations", "x", "--hz", "-1"], "hz: a positive number"),
        (["--observations", "x", "--size", "8,8"], "--size does not fit"),
        (["--observations", "x", "--actions", "u"], "row 5: action u is missing or NaN"),
        (["--observations", "a b=x"], "channel name 'a b'"),
        (["--observations", "x", "--time", "id"], "t.csv: column id, row 1: a number expected, got 'a'"),
        (["--time", "t", "--observations", "x", "--hz", "0.4"], "fall into one step of 0.4 Hz"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    if "--actions" in arguments and "--bounds" not in arguments:
        table.write_text(TABLE + "b,12,1,1,0,hi\n")
    assert main(["import", str(table), "--out", str(tmp_path / "out"), *arguments]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_action_out_of_bounds_names_the_source(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["import", str(table), "--out", str(out), *COLUMNS, "--bounds", "u=0:0.5"]) == 2
    assert f"{table}: episode 0: action u must be within [0, 0.5], got [0, 1]" in capsys.readouterr().err
    assert not out.exists()


def test_half_an_import_is_removed_even_by_ctrl_c(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretell.episodes.writer import EpisodeWriter

    append, out = EpisodeWriter.append, tmp_path / "out"

    def interrupted(writer: EpisodeWriter, episode: object) -> None:
        if len(writer) == 1:
            assert out.exists()
            raise KeyboardInterrupt
        append(writer, episode)  # type: ignore[arg-type]

    monkeypatch.setattr(EpisodeWriter, "append", interrupted)
    assert main(["import", str(table), "--out", str(out), *COLUMNS]) == 130
    assert not out.exists()


def test_sources_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["import", str(tmp_path / "absent"), *out]) == 2
    assert "absent: a file or folder to import expected, there is none" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["import", str(tmp_path / "empty"), *out]) == 2
    assert "a LeRobot folder (meta/info.json), .mp4 videos or .csv" in capsys.readouterr().err
    (tmp_path / "x.xlsx").write_text("x")
    assert main(["import", str(tmp_path / "x.xlsx"), *out]) == 2
    assert "x.xlsx: a table ends in .csv" in capsys.readouterr().err
    (tmp_path / "old/meta").mkdir(parents=True)
    (tmp_path / "old/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    assert main(["import", str(tmp_path / "old"), *out]) == 2
    assert "LeRobotDataset v3 expected, got v2.1" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "old"), *out, "--episode", "id"]) == 2
    assert "--episode does not fit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_s_own_options_are_those_of_the_command_line(table: Path) -> None:
    command = module.Import(
        source=table, out=Path("x"), observations=("a = x, y", "b=z"), quantities=("q",), units=("a=b=U",), hz=2.0
    )
    options = command.table_options()
    assert options.observations == {"a": ["x", "y"], "b": ["z"]}
    assert options.quantities == {"quantities": ["q"]}
    assert options.units == {"a=b": "U"}
    assert options.hz == 2.0
