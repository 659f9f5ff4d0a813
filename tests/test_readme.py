"""The README's example in Python runs as it stands, only smaller."""

import re
from pathlib import Path

import pytest

from foretell.evaluation.runs import open_run

README = Path(__file__).resolve().parent.parent / "README.md"
SMALLER = {
    "world.episodes(350, seed=0)": "world.episodes(6, seed=0)",
    "episodes=350": "episodes=6",
    "TrainConfig(steps=800)": "TrainConfig(steps=2, device='cpu', frozen_states=300, **QUICK)",
    "range(100)": "range(2)",
    "import TrainConfig, train\n": "import TrainConfig, train\n"
    "from foretell.training.refine import Refine\n"
    "from foretell.training.temporal import DistanceFit\n"
    "QUICK = {'refine': Refine(steps=2), 'distance': DistanceFit(steps=2)}\n",
}


def test_example_in_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    for shown, run in SMALLER.items():
        assert example.count(shown) == 1, shown
        example = example.replace(shown, run)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert re.fullmatch(r"reached (0|50|100)% of 2 goals\n", capsys.readouterr().out)
    run = open_run(tmp_path / "rooms" / "run")
    assert len(run.store) == 6
    assert run.note.finished
    assert "temporal_distance" in run.parts
