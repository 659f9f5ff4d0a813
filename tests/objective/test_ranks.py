"""Two processes find the statistics, and after averaging the gradients, of one process with both their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foretell.objective.ranks import mean_over_ranks
from foretell.objective.sigreg import sigreg
from foretell.objective.variance import latent_spread, variance_covariance

ROOT = Path(__file__).resolve().parents[2]
BATCH, STEPS, INPUT, LATENT = 12, 3, 5, 4

RANK = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tests.objective.test_ranks import BATCH, terms
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = terms(slice(rank * BATCH // 2, (rank + 1) * BATCH // 2))
save_file({k: v.contiguous() for k, v in found.items()}, folder / f"{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def terms(share: slice) -> dict[str, Tensor]:
    """Each term of a share of the batch, and its gradient for the weights of a linear encoder."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, STEPS, INPUT, generator=generator)
    weights = torch.randn(INPUT, LATENT, generator=generator)
    found: dict[str, Tensor] = {}
    for name in ("sigreg", "variance", "covariance", "mean"):
        weight = weights.clone().requires_grad_()
        latents = inputs[share] @ weight
        if name == "sigreg":
            term = sigreg(latents, 16, torch.Generator().manual_seed(1))
        elif name == "mean":
            term = mean_over_ranks(latents.mean(0)).pow(3).sum()
        else:
            # A target that no dimension reaches, so that each of them has a gradient.
            term = variance_covariance(latents, 9.0)[name == "covariance"]
        (gradient,) = torch.autograd.grad(term, weight)
        found |= {name: term.detach(), f"{name}.gradient": gradient}
    return found | {"spread": latent_spread((inputs[share] @ weights)[:, :, None])}


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error::FutureWarning", "-c", RANK, str(rank), str(tmp_path)],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    zero, one = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    whole, half = terms(slice(None)), terms(slice(BATCH // 2))
    for name, expected in whole.items():
        if name.endswith("gradient"):
            # As data parallelism does it.
            torch.testing.assert_close((zero[name] + one[name]) / 2, expected, rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(zero[name], expected)
            assert torch.equal(zero[name], one[name])
        assert not torch.allclose(half[name], expected, rtol=1e-2)


def test_alone_a_mean_over_ranks_is_the_value_itself() -> None:
    values = torch.randn(3, requires_grad=True)
    assert mean_over_ranks(values) is values


@pytest.mark.parametrize("name", ["sigreg", "variance", "covariance"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """The terms themselves, so that two ranks are not compared with a wrong one."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(6, 2, 3, generator=generator)

    def term(x: Tensor) -> Tensor:
        if name == "sigreg":
            return sigreg(x, 8, torch.Generator().manual_seed(1))
        return variance_covariance(x, 9.0)[name == "covariance"]

    variable = latents.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(variable), variable)
    direction = torch.randn(latents.shape, generator=generator)
    step = 3e-3
    slope = (term(latents + step * direction) - term(latents - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=2e-2, abs=1e-4)
