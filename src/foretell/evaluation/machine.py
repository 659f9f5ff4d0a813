"""The machine and the versions that a figure was measured with, in words."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from foretell import __version__

PACKAGES = ("torch", "numpy", "pyarrow", "av", "gymnasium")


def describe_machine() -> dict[str, str]:
    """Processor, cores that this process may use, memory, system, and accelerators where there are any."""
    found = {
        "processor": _processor(),
        "cores": str(_cores()),
        "memory": f"{_memory() / 2**30:.0f} GB" if _memory() else "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        found["accelerator"] = "Apple GPU"
    return found


def machine_name() -> str:
    """One line: processor, cores, memory, accelerator."""
    found = describe_machine()
    parts = [found["processor"], f"{found['cores']} cores", found["memory"], found.get("accelerator", "")]
    return ", ".join(p for p in parts if p)


def describe_versions() -> dict[str, str]:
    """foretell, Python and the packages that figures depend on."""
    found = {"foretell": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return platform.processor() or platform.machine()
