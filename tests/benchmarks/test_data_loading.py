"""The data loading benchmark runs and prints the rows that it promises."""

from __future__ import annotations

import json

import pytest

from benchmarks.result import Options, Row, median_interval, run
from tests.benchmarks.quick import ROOT, quick


def test_quick_run_prints_both_rows():
    result = quick("data_loading")
    assert [row["id"] for row in result["rows"]] == [f"data_loading.windows_per_second_{n}" for n in (64, 224)]
    assert {"benchmark", "commit", "machine", "seconds", "rows"} <= result.keys()
    for row in result["rows"]:
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert row["baselines"]["memory_map"] > 0


def rows(options: Options):
    yield Row(id="a.b.one", value=1.0, unit="s", n=1)
    yield Row(id="a.b.two", value=float(options.quick), unit="s", n=1)


@pytest.mark.parametrize(
    ("only", "ids"), [("", ["a.b.one", "a.b.two"]), ("a.b.t", ["a.b.two"]), ("a", ["a.b.one", "a.b.two"])]
)
def test_only_chooses_rows(tmp_path, only, ids):
    run("example", {"a.b": rows}, ["--json", str(tmp_path / "out.json"), "--only", only, "--quick"])
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["id"] for row in result["rows"]] == ids


def test_part_of_a_run_is_never_kept(capsys):
    for arguments in (["--keep", "--quick"], ["--keep", "--only", "a"], ["--only", "zzz"]):
        with pytest.raises(SystemExit):
            run("example", {"a.b": rows}, arguments)
    assert not (ROOT / "benchmarks" / "results" / "example.json").exists()


def test_the_interval_surrounds_the_median():
    value, (low, high) = median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert value == 3.0
    assert low <= 2.0
    assert 4.0 <= high <= 100.0
