"""Tables become episodes without a value changed, filled in or lost, and wrong tables are refused by place."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.episodes.importers import columns
from foretell.episodes.importers.table import TableOptions, import_table
from foretell.errors import DataError, ForetellError, SpecError
from foretell.spec import Episode


def csv(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def episodes(path: Path, **options: object) -> list[Episode]:
    source = import_table(path, TableOptions(**options))  # type: ignore[arg-type]
    found = list(source.episodes)
    for i, episode in enumerate(found):
        episode.check(source.spec, f"episode {i}")
    return found


CGM = """patient,minutes,glucose,hr,insulin
a,0,100,60,0
a,5,,61,1.5
a,10,120,NaN,0
b,0,90,70,0
b,5,91,71,
"""


def test_a_table_of_patients(tmp_path: Path) -> None:
    source = import_table(
        csv(tmp_path, CGM),
        TableOptions(
            episode="patient",
            time="minutes",
            observations={"cgm": ["glucose"], "watch": ["hr"]},
            actions=["insulin"],
            units={"glucose": "mg/dL", "insulin": "U"},
            bounds={"insulin": (0.0, 10.0)},
        ),
    )
    assert [c.name for c in source.spec.observations] == ["cgm", "watch"]
    assert source.spec.observations[0].units == ("mg/dL",)
    assert (source.spec.action.units, source.spec.action.low, source.spec.action.high) == (("U",), (0.0,), (10.0,))
    assert source.spec.hz == pytest.approx(1 / 5)
    first, second = source.episodes
    assert first.observations["cgm"].dtype == np.int64
    assert first.observations["cgm"][[0, 2], 0].tolist() == [100, 120]
    assert first.valid["cgm"][:, 0].tolist() == [True, False, True]
    assert first.valid["watch"][:, 0].tolist() == [True, True, False]
    assert first.actions.tolist() == [[0.0], [1.5]]
    assert first.times is not None
    assert (first.times.dtype, first.times.tolist()) == (np.dtype(np.int64), [0, 5, 10])
    assert (len(second), second.valid, second.actions.tolist()) == (2, {}, [[0.0]])


def test_episodes_of_one_patient_are_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "stay,who,x\n1,anna,1\n1,anna,2\n2,anna,3\n3,7,4\n4,,5\n"
    found = episodes(csv(tmp_path, text), episode="stay", group="who")
    assert [e.group for e in found] == ["anna", "anna", "7", ""]
    assert [e.observations["state"].tolist() for e in found] == [[[1], [2]], [[3]], [[4]], [[5]]]
    for cells in (columns._CELLS, 1):
        monkeypatch.setattr(columns, "_CELLS", cells)
        with pytest.raises(DataError, match=r"row 2: one group in an episode expected, got 'anna', then 'bert'"):
            episodes(csv(tmp_path, "stay,who,x\n1,anna,1\n1,bert,2\n"), episode="stay", group="who")
    with pytest.raises(DataError, match="no column 'whom' for --group"):
        episodes(csv(tmp_path, text), episode="stay", group="whom")


def test_all_other_columns_are_observed_when_none_is_named(tmp_path: Path) -> None:
    (episode,) = episodes(csv(tmp_path, "a,u,b\n1,0.5,2.5\n2,0.5,3\n"), actions=["u"])
    assert episode.observations["state"].tolist() == [[1.0, 2.5], [2.0, 3.0]]


def test_rows_keep_irregular_times_without_hz_and_are_placed_on_the_grid_with_it(tmp_path: Path) -> None:
    path = csv(tmp_path, "t,x\n0.0,1\n1.1,2\n3.9,5\n")
    (kept,) = episodes(path, time="t")
    assert kept.times is not None
    assert kept.times.tolist() == [0.0, 1.1, 3.9]
    assert kept.valid == {}
    (placed,) = episodes(path, time="t", hz=1.0)
    assert placed.valid["state"][:, 0].tolist() == [True, True, False, False, True]
    assert placed.observations["state"][[0, 1, 4], 0].tolist() == [1, 2, 5]
    assert placed.times is not None
    assert placed.times.tolist() == [0.0, 1.1, 2.0, 3.0, 3.9]


def test_64_bit_ticks_and_integers_stay_exact(tmp_path: Path) -> None:
    start = 1_700_000_000_000_000_001
    ticks = [start + 5 * 10**9 * i for i in (0, 1, 3)]
    text = "t,x\n" + "".join(f"{t},{2**53 + 1 + i}\n" for i, t in enumerate(ticks))
    (episode,) = episodes(csv(tmp_path, text), time="t", time_unit="ns", hz=0.2)
    assert episode.times is not None
    assert episode.times.tolist() == [start + 5 * 10**9 * i for i in range(4)]
    assert episode.observations["state"][[0, 1, 3], 0].tolist() == [2**53 + 1, 2**53 + 2, 2**53 + 3]
    (unsigned,) = episodes(csv(tmp_path, f"x\n{2**64 - 1}\n1\n"))
    assert unsigned.observations["state"][0, 0] == 2**64 - 1


@pytest.mark.parametrize(
    "text",
    ["a,b\n9007199254740993,0.5\n", "a\n9007199254740993\n0.5\n", "a\n99999999999999999999999\n"],
    ids=["channel", "column", "beyond 64 bits"],
)
def test_an_integer_that_would_be_rounded_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="whole number"):
        episodes(csv(tmp_path, text))


def test_dates_are_times(tmp_path: Path) -> None:
    text = "when,x\n2024-03-01T00:00:00Z,1\n2024-03-01T00:05:00Z,2\n2024-03-01T00:15:00Z,3\n"
    source = import_table(csv(tmp_path, text), TableOptions(time="when", hz=1 / 300))
    (episode,) = source.episodes
    assert source.metadata["time_unit"] == "ns"
    assert episode.times is not None
    assert episode.times[0] == np.datetime64("2024-03-01T00:00:00", "ns").astype(np.int64)
    assert episode.valid["state"][:, 0].tolist() == [True, True, False, True]


def test_parquet_keeps_types_and_batches_do_not_split_episodes(tmp_path: Path) -> None:
    count = 20_000
    rng = np.random.default_rng(0)
    columns_ = {
        "id": np.repeat(np.arange(4), count // 4).astype(np.int16),
        "t": np.tile(np.arange(count // 4, dtype=np.int64), 4) + 2**60,
        "x": rng.normal(size=count).astype(np.float32),
        "n": rng.integers(0, 255, count).astype(np.uint8),
    }
    pq.write_table(pa.table(columns_), tmp_path / "t.parquet")
    found = episodes(tmp_path / "t.parquet", episode="id", time="t", observations={"x": ["x"], "n": ["n"]})
    assert [len(e) for e in found] == [count // 4] * 4
    for key in ("x", "n"):
        joined = np.concatenate([e.observations[key][:, 0] for e in found])
        assert joined.dtype == columns_[key].dtype
        assert (joined == columns_[key]).all()
    times = np.concatenate([e.times for e in found if e.times is not None])
    assert (times == columns_["t"]).all()


def test_types_are_those_of_the_whole_file_not_of_its_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_BLOCK", 256)
    values = [str(i) for i in range(200)] + ["0.5", ""] + ["7"] * 100
    (episode,) = episodes(csv(tmp_path, "x,y\n" + "".join(f"{v},1\n" for v in values)), observations={"x": ["x"]})
    assert episode.observations["x"].dtype == np.float64
    assert episode.observations["x"][200, 0] == 0.5
    assert np.flatnonzero(~episode.valid["x"][:, 0]).tolist() == [201]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_delimiters_and_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    (episode,) = episodes(csv(tmp_path, "﻿a,b\n1,2\n3,4\n".replace(",", delimiter)))
    assert episode.observations["state"].tolist() == [[1, 2], [3, 4]]


def test_a_folder_of_tables_has_an_episode_per_file(tmp_path: Path) -> None:
    csv(tmp_path, "x\n1\n2\n", "a.csv")
    csv(tmp_path, "x\n0.5\n", "b.csv")
    found = episodes(tmp_path)
    assert [e.observations["state"][:, 0].tolist() for e in found] == [[1.0, 2.0], [0.5]]
    assert {e.observations["state"].dtype for e in found} == {np.dtype(np.float64)}


values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(values, values), min_size=1, max_size=8), min_size=1, max_size=4))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, table: list[list[tuple]]) -> None:  # type: ignore[type-arg]
    def text(value: int | None) -> str:
        return "" if value is None else str(value)

    rows = [f"e{i},{text(a)},{text(b)}\n" for i, episode in enumerate(table) for a, b in episode]
    path = csv(tmp_path_factory.mktemp("t"), "id,a,b\n" + "".join(rows))
    for episode, expected in zip(
        episodes(path, episode="id", observations={"a": ["a"], "b": ["b"]}), table, strict=True
    ):
        for name, column in zip("ab", zip(*expected, strict=True), strict=True):
            mask = episode.valid.get(name, np.ones((len(expected), 1), np.bool_))[:, 0]
            came = [int(v) if ok else None for v, ok in zip(episode.observations[name][:, 0], mask, strict=True)]
            assert came == list(column)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.floats(-0.45, 0.45),
    st.sampled_from([0.01, 0.2, 1.0, 30.0, 1000.0]),
)
def test_the_grid_keeps_each_row_at_its_nearest_step(gaps: list[int], jitter: float, hz: float) -> None:
    from foretell.episodes.importers.clock import place

    steps = np.cumsum([0, *gaps])
    times = (steps + jitter * (np.arange(len(steps)) % 2)) / hz + 12345.0
    found, grid = place(times, hz, 1, "here")
    assert found.tolist() == steps.tolist()
    assert (grid[found] == times).all()
    assert (np.diff(grid) > 0).all()


WRONG = {
    "unknown column": ("x,y\n1,2\n", {"observations": {"s": ["z"]}}, r"no column 'z' for --observations; it has x, y"),
    "did you mean": ("glucose\n1\n", {"actions": ["glucos"]}, r"did you mean 'glucose'\?"),
    "text": ("x\n1\nhigh\n", {}, r"column x, row 2: a number expected, got 'high'"),
    "decimal comma": ("x;y\n1,5;2\n", {}, r"row 1: a number expected, got '1,5'"),
    "twice": ("id,t,x\na,1,1\nb,1,1\nb,1,1\n", {"episode": "id", "time": "t"}, r"episode b, row 3: time 1 comes twice"),
    "backwards": ("t,x\n1,1\n2,1\n1.5,1\n", {"time": "t"}, r"row 3: time 1.5 comes after 2.0"),
    "action missing": ("x,u\n1,1\n1,\n1,1\n", {"actions": ["u"]}, r"row 2: action u is missing"),
    "action NaN": ("x,u\n1,nan\n1,1\n", {"actions": ["u"]}, r"row 1: action u is missing or NaN"),
    "infinity": ("x\n1\ninf\n", {}, r"column x, row 2: a finite number expected, got inf"),
    "empty": ("", {}, r"t\.csv: the file is empty"),
    "header only": ("x,y\n", {}, r"the table has no rows"),
    "ragged": ("x,y\n1,2\n1,2,3\n", {}, r"not a whole CSV file: .*Expected 2 columns, got 3"),
    "same name": ("x,x\n1,2\n", {}, r"column names must differ, got 'x' more than once"),
    "episode apart": ("id,x\na,1\nb,1\na,1\n", {"episode": "id"}, r"episode a: its rows do not stand together .*row 3"),
    "no episode": ("id,x\na,1\n,1\n", {"episode": "id"}, r"column id, row 2: the episode is missing"),
    "no time": ("t,x\n1,1\n,1\n", {"time": "t"}, r"column t, row 2: the time is missing"),
    "bad time": ("t,x\n1,1\nnoon,1\n", {"time": "t"}, r"column t, row 2: a number expected, got 'noon'"),
    "one step": ("t,x\n1,1\n1.2,1\n", {"time": "t", "hz": 1.0}, r"times 1.0 and 1.2 fall into one step of 1 Hz"),
    "empty grid": ("t,x\n0,1\n1,1\n90000,1\n", {"time": "t", "hz": 1.0}, r"would fill 90001 steps"),
    "gap in actions": (
        "t,x,u\n0,1,1\n3,1,1\n",
        {"time": "t", "hz": 1.0, "actions": ["u"]},
        r"no action is known between times 0 and 3",
    ),
    "nothing to observe": ("u\n1\n", {"actions": ["u"]}, r"no column is left to observe"),
    "unit of nothing": ("x\n1\n", {"units": {"y": "m"}}, r"units: 'y' is not among the columns"),
    "two roles": ("x\n1\n", {"observations": {"s": ["x"]}, "actions": ["x"]}, r"column 'x' has two roles"),
    "bounds": ("x\n1\n", {"bounds": {"x": (0.0, 1.0)}}, r"bounds: 'x' is not an action"),
    "hz": ("x\n1\n", {"hz": -1.0}, r"hz: a positive number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables_are_refused(tmp_path: Path, case: str) -> None:
    text, options, message = WRONG[case]
    with pytest.raises(ForetellError, match=message):
        episodes(csv(tmp_path, text), **options)  # type: ignore[arg-type]


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"x": np.arange(1000.0)}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut\.parquet: not a whole Parquet file"):
        episodes(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="no such file"):
        episodes(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"a table ends in \.csv"):
        episodes(csv(tmp_path, "x", "t.xlsx"))
    (tmp_path / "latin.csv").write_bytes("x,y\n1,\xe4\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: not a whole CSV file"):
        episodes(tmp_path / "latin.csv")
    pq.write_table(pa.table({"x": ["a", "b"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="column x, row 1: a number expected, got 'a'"):
        episodes(tmp_path / "text.parquet")


def test_an_infinite_bound_is_no_bound(tmp_path: Path) -> None:
    source = import_table(csv(tmp_path, "x,u\n1,1\n"), TableOptions(actions=["u"], bounds={"u": (0.0, math.inf)}))
    assert source.spec.action.high == (math.inf,)


def test_options_are_checked_when_they_are_made() -> None:
    with pytest.raises(SpecError, match="hz"):
        TableOptions(hz=math.nan)
