"""Installs the pinned torch into this environment: the CPU build unless asked for the one with GPU packages.

On Linux the torch of PyPI brings some 3 GB of GPU packages, which nothing here needs. PyTorch's own index has
the CPU build; where it cannot be reached, whatever pip is set up with is tried, and refused if it is a GPU build.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
PROBE = f"import urllib.request; urllib.request.urlopen('{CPU_INDEX}/torch/', timeout=2)"
ADVICE = (
    f"install_torch: no CPU build of torch was found. Connect to {CPU_INDEX} or set PIP_EXTRA_INDEX_URL to a mirror"
    " of it; or run make with TORCH=cuda for the build with GPU packages (about 3 GB)."
)


def reachable() -> bool:
    """Whether PyTorch's index answers within 2 s; pip alone would retry for far longer, name look-up included."""
    try:
        return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=2).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def gpu_packages() -> list[str]:
    """Names of the installed packages that come only with torch's GPU build."""
    names = {(d.metadata["Name"] or "").lower() for d in distributions()}
    return sorted(n for n in names if n == "triton" or n.startswith(("nvidia-", "cuda-")))


def main(build: str) -> int:
    """Install torch; 0, or 1 after one line that says what to do."""
    if build not in ("cpu", "cuda"):
        print(f"install_torch: TORCH must be cpu or cuda, got {build!r}", file=sys.stderr)
        return 1
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "-c", str(CONSTRAINTS)]
    if build == "cuda" or sys.platform != "linux":
        return subprocess.run([*pip, "torch"]).returncode
    with tempfile.TemporaryDirectory() as folder:
        # Every GPU build for Linux requires triton, so this makes pip give up before it downloads one.
        no_gpu = Path(folder, "no-gpu.txt")
        no_gpu.write_text("triton<0\n")
        index = ["--extra-index-url", CPU_INDEX] if reachable() else []
        failed = subprocess.run([*pip, "-c", str(no_gpu), *index, "torch"]).returncode
    found = gpu_packages()
    if found:
        print(
            f"install_torch: GPU packages in a CPU environment: {', '.join(found)}. Run `make clean` to start again,"
            " or run make with TORCH=cuda to keep them.",
            file=sys.stderr,
        )
    elif failed:
        print(ADVICE, file=sys.stderr)
    return 1 if failed or found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "cpu"))
