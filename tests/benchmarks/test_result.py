"""Results of benchmarks: rows that were found are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.result import Options, Row, run
from foretell.errors import SpecError


def test_what_one_measure_lacks_costs_no_row_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lacking(options: Options) -> Iterator[Row]:
        raise SpecError("extra is not installed: pip install it")
        yield

    def works(options: Options) -> Iterator[Row]:
        yield Row(id="works.one", value=1.0, unit="", n=1)

    with pytest.raises(SystemExit):
        run("some", {"lacking": lacking, "works": works}, ["--json", str(tmp_path / "found.json")])
    assert [row["id"] for row in json.loads((tmp_path / "found.json").read_text())["rows"]] == ["works.one"]
    assert "rows are missing: lacking: extra is not installed: pip install it" in capsys.readouterr().err
