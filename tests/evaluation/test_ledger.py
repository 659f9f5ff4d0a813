"""The ledger: entries hang together by their hashes, and a killed process loses none that was promised."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foretell.errors import DataError
from foretell.evaluation.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "deep" / "ledger.jsonl")
    for i in range(4):
        made.append({"dose": i}, {"effect": [i / 2, None]})
    return made


def test_each_line_holds_the_hash_of_the_one_before(ledger: Ledger) -> None:
    lines = [json.loads(x) for x in ledger.path.read_text().splitlines()]
    assert [x["number"] for x in lines] == [1, 2, 3, 4]
    assert [x["before"] for x in lines] == ["0" * 64, *(x["hash"] for x in lines[:-1])]
    told = {k: v for k, v in lines[2].items() if k != "hash"}
    assert hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest() == lines[2]["hash"]
    assert ledger.verify() == 4


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: x.replace(b'"dose": 2', b'"dose": 9'), 3),
        (lambda x: b"".join(x.splitlines(keepends=True)[1:]), 1),
        (lambda x: b"".join(x.splitlines(keepends=True)[:1] + x.splitlines(keepends=True)[2:]), 2),
        (lambda x: x.replace(b'"number": 1', b"nonsense"), 1),
        (lambda x: x + b"[]\n", 5),
    ],
)
def test_what_was_changed_or_left_out_is_noticed(ledger: Ledger, change, line) -> None:  # type: ignore[no-untyped-def]
    ledger.path.write_bytes(change(ledger.path.read_bytes()))
    for use in (ledger.verify, lambda: ledger.append({}, {})):
        with pytest.raises(DataError, match=f"line {line} is not what was written"):
            use()


def test_an_unfinished_line_is_cut_off(ledger: Ledger) -> None:
    before = ledger.path.read_bytes()
    for torn in (b'{"number": 5, "ti', b"{"):
        ledger.path.write_bytes(before + torn)
        assert ledger.verify() == 4
        ledger.append({"dose": 4}, {})
        assert ledger.path.read_bytes().startswith(before)
        assert ledger.verify() == 5


def test_without_a_ledger_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such ledger"):
        Ledger(tmp_path / "none").verify()


def test_killed_writers_lose_no_entry_that_was_promised(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write = (
        "import sys; from pathlib import Path; from foretell.evaluation.ledger import Ledger\n"
        "while True: print(Ledger(Path(sys.argv[1])).append({'a': 'x' * 5000}, {}), flush=True)"
    )
    promised: list[str] = []
    for _ in range(3):
        pair = [
            subprocess.Popen([sys.executable, "-c", write, str(path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in pair:
            assert process.stdout is not None
            promised.append(process.stdout.readline().strip())
        time.sleep(0.3)
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            promised += [x.strip() for x in process.stdout.read().splitlines() if len(x.strip()) == 64]
    count = Ledger(path).verify()
    written = {json.loads(x)["hash"] for x in path.read_text().splitlines()[:count]}
    assert set(promised) <= written
    assert count >= 6
