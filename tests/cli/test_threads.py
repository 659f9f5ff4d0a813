"""The default number of threads follows the machine, the container and what the user has set."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretell.cli import threads


@pytest.mark.parametrize(
    ("environment", "cores", "quota", "expected"),
    [("", 1, 4, 1), ("", 16, 4, 4), ("", 3, 2, 2), ("7", 1, 1, 7), ("0", 2, 4, 2), ("many", 2, 4, 2)],
)
def test_default(monkeypatch: pytest.MonkeyPatch, environment: str, cores: int, quota: int, expected: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    assert threads.default_threads() == expected


@pytest.mark.parametrize(("text", "expected"), [("150000 100000", 1), ("300000 100000", 3), ("max 100000", 4)])
def test_a_container_s_share_counts(tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads._quota(tmp_path / "cpu.max") == expected
    assert threads._quota(tmp_path / "absent") == threads.MOST


def test_hyper_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(siblings)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert threads._cores(tmp_path) == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2})
    assert threads._cores(tmp_path) == 1
    assert threads._cores(tmp_path / "absent") == 2
