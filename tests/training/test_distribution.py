"""Several processes train as one does: the same losses, statistics and weights at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from foretell.cli.main import main
from foretell.errors import SpecError
from foretell.model.checkpoint import load
from foretell.training import TrainRecord
from foretell.training.distribution import Ranks
from foretell.training.log import read_log
from tests.training.samples import write_store

SMALL = {
    **{"model.latent": 8, "model.block": 2, "model.stem": 4, "model.features": 16, "model.width": 16, "model.depth": 1},
    **{"objective.variance": 0.1, "objective.covariance": 0.1, "objective.settle": 2, "objective.ramp": 3},
    **{"refine.steps": 3, "refine.batch": 16, "refine.blocks": 2},
    **{"distance.steps": 3, "distance.batch": 16, "distance.width": 8, "distance.depth": 1},
    **{"steps": 10, "batch": 16, "length": 3, "warmup": 2, "learning-rate": 0.01, "log-steps": 1, "seed": 3},
    **{"precision": "float32", "device": "cpu"},
}
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """SIGReg and the variance are those of the global batch: those of its halves are percents away."""
    store = write_store(tmp_path / "store", gaps=True).path
    settings = [str(part) for name, value in SMALL.items() for part in (f"--{name}", value)]
    command = ["foretell", "train", str(store), *settings, "--threads", "1", "--json", "--out"]
    done = subprocess.run(
        [sys.executable, *LAUNCHER, "-m", *command, tmp_path / "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert main([*command[1:], str(tmp_path / "one")]) == 0
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert len(one) == 10
    for mine, theirs in zip(one, two, strict=True):
        terms = mine.keys() - {"seconds", "frames_per_second"}
        assert {"sigreg", "variance", "covariance", "inverse", "prediction", "spread"} <= terms
        assert {k: theirs[k] for k in terms} == pytest.approx({k: mine[k] for k in terms}, rel=1e-4, abs=1e-6)
    first, second = (load(tmp_path / name).model.state_dict() for name in ("one", "two"))
    for name, value in first.items():
        if name.startswith(("mean_", "scale_")):
            assert torch.equal(second[name], value), name
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)
    result = json.loads(done.stdout)
    assert (result["ranks"], result["steps"]) == (2, 10)
    assert "foretell:" not in done.stderr
    assert TrainRecord.read(tmp_path / "two").ranks == 2


@pytest.mark.parametrize(("batch", "ranks", "group"), [(6, 4, 1), (6, 2, 2), (5, 2, 1)])
def test_batches_that_do_not_divide_are_refused(batch, ranks, group):
    with pytest.raises(SpecError, match=rf"a batch divisible by {ranks * group} expected for {ranks} ranks"):
        Ranks(torch.device("cpu"), 0, ranks).require_even(batch, group)


def test_a_single_process_needs_nobody():
    alone = Ranks(torch.device("cpu"))
    alone.wait()
    alone.require_even(5, 5)
    alone.average_gradients([])
    assert alone.first
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.average(torch.tensor([2.0])).tolist() == [2.0]
