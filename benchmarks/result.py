"""The result object that every benchmark prints, and the options that every benchmark has."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ForetellError
from foretell.evaluation.intervals import wilson

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure under a stable id. interval: 95%, around `value`. n: what was counted; seeds: of training runs."""

    id: str
    value: float
    unit: str
    n: int
    interval: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()
    baselines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Options:
    """quick: run small, only to see that it works. only: the rows wanted, by prefix of their id."""

    quick: bool = False
    only: str = ""

    def wants(self, row_id: str) -> bool:
        """Whether the row, or a row below this prefix, was asked for."""
        return row_id.startswith(self.only) or self.only.startswith(row_id)


Measure = Callable[[Options], Iterable[Row]]


def run(
    name: str, measures: Mapping[str, Measure], arguments: Sequence[str] | None = None, *, module: str | None = None
) -> dict[str, Any]:
    """Parse the command line, run the measures whose rows are wanted, print the result; returns it.

    measures: by the common prefix of the ids of the rows that each yields. module: that is run, where it is not `name`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module or name}")
    parser.add_argument("--json", metavar="PATH", help="write the result object to PATH, or - for standard output")
    parser.add_argument("--only", metavar="PREFIX", default="", help="run the rows whose id starts so")
    parser.add_argument("--quick", action="store_true", help="run everything small, to see that it works")
    parser.add_argument("--keep", action="store_true", help=f"keep the result as benchmarks/results/{name}.json")
    chosen = parser.parse_args(arguments)
    if chosen.keep and (chosen.quick or chosen.only):
        parser.error("--keep takes a whole run: leave out --quick and --only")
    options = Options(quick=chosen.quick, only=chosen.only)
    started = time.perf_counter()
    rows: list[Row] = []
    failed: list[str] = []
    for prefix, measure in measures.items():
        if options.wants(prefix):
            try:
                for row in measure(options):
                    if row.id.startswith(options.only):
                        rows.append(row)
                        print(_line(row), file=sys.stderr, flush=True)
            except ForetellError as error:
                # Such as an extra that is not installed: what hours of others found is not lost for it.
                failed.append(f"{prefix}: {error}")
                print(failed[-1], file=sys.stderr, flush=True)
    if not rows and failed:
        parser.error("; ".join(failed))
    if not rows:
        parser.error(f"--only {options.only}: no such row; there are rows under {', '.join(measures)}")
    result: dict[str, Any] = {
        "benchmark": name,
        "commit": commit(),
        "machine": machine(),
        "quick": options.quick,
        "seconds": round(time.perf_counter() - started, 1),
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(result, indent=2) + "\n"
    if chosen.json == "-":
        sys.stdout.write(text)
    elif chosen.json:
        Path(chosen.json).write_text(text, "utf-8")
    if chosen.keep:
        kept = ROOT / "benchmarks" / "results" / f"{name}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(text, "utf-8")
    if failed:
        parser.error(f"rows are missing: {'; '.join(failed)}")
    return result


def commit() -> str:
    """The commit measured, with '+' where tracked files differ from it; 'unknown' outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.returncode else "")


def machine() -> str:
    """Processor, cores this process may use, memory, accelerator and versions, in one line."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [f"{_processor()}, {cores} cores", f"{torch.get_num_threads()} threads"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    parts.append(f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    return ", ".join(parts)


def share(
    row_id: str, hits: Sequence[bool] | NDArray[np.bool_], seeds: tuple[int, ...], baselines: Mapping[str, float]
) -> Row:
    """The share of hits with Wilson's interval."""
    found = np.asarray(hits, np.bool_)
    return Row(
        id=row_id,
        value=float(found.mean()),
        interval=wilson(int(found.sum()), len(found)),
        n=len(found),
        seeds=seeds,
        unit="share",
        baselines=baselines,
    )


def milliseconds(row_id: str, times: Sequence[float], seeds: tuple[int, ...]) -> Row:
    """The median of times, ms, with its interval; beside it the 95% quantile."""
    value, interval = median_interval(times)
    return Row(
        id=row_id,
        value=value,
        interval=interval,
        n=len(times),
        seeds=seeds,
        unit="ms",
        baselines={"quantile_95": float(np.quantile(times, 0.95))},
    )


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """The median of repeated measurements and its 95% bootstrap interval."""
    found = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).choice(found, (2000, len(found)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(found)), (float(low), float(high))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _line(row: Row) -> str:
    interval = "" if row.interval is None else f" [{row.interval[0]:.6g}, {row.interval[1]:.6g}]"
    beside = "".join(f"  {name} {value:.6g}" for name, value in row.baselines.items())
    return f"{row.id}: {row.value:.6g}{interval} {row.unit}{beside}"
