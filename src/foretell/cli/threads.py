"""How many CPU threads to compute with, and setting them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MOST = 4
"""The models here are small: beyond this many, threads wait for each other more than they compute."""


def default_threads() -> int:
    """OMP_NUM_THREADS where it is set to a number, else the physical cores this process may use, at most 4."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, min(MOST, _cores(), _quota()))


def set_threads(count: int) -> None:
    """Let OpenMP, MKL and torch compute with `count` threads, whether torch has been imported or not."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def _cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores among the CPUs that the process may run on: hyper-threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add((topology / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _quota(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole CPUs that the control group grants (a container's limit); many where there is no limit."""
    try:
        quota, period = limit.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return MOST
