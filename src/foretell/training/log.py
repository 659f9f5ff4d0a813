"""The training log: one JSON record a line, and to trackers that an extra installs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foretell.episodes.table import write_whole
from foretell.errors import DataError, SpecError
from foretell.training.config import Tracker

NAME = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole records of a log; a killed run may have left half a line."""
    found = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


class Log:
    """Appends to RUN/log.jsonl what a run says about a step, and to a tracker (a context manager).

    step: the last step that a resumed run keeps; records after it are dropped, for they come again.
    Raises SpecError, with the command that installs it, if the tracker is not there, DataError if the log
    cannot be written.
    """

    def __init__(self, run: Path, tracker: Tracker, settings: Mapping[str, Any], step: int = 0) -> None:
        self._tracker = _tracker(tracker, run, settings)
        path = run / NAME
        kept = [r for r in read_log(path) if r["step"] <= step]
        write_whole(path, lambda temporary: temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), "utf-8"))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, float]) -> None:
        """Append one record; what is not finite becomes null."""
        plain = {k: v if math.isfinite(v) else None for k, v in record.items()}
        try:
            self._file.write(json.dumps(plain) + "\n")
            self._file.flush()
        except OSError as error:
            raise DataError(f"{self._file.name}: cannot be written: {error.strerror or error}") from error
        if self._tracker is not None:
            self._tracker.write(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._tracker is not None:
            self._tracker.close()


class TensorBoard:
    """Scalars for TensorBoard, in RUN/tensorboard."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(run / "tensorboard"))

    def write(self, record: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """Scalars for Weights & Biases, in the project `foretell`; its own environment variables hold."""

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._run: Any = wandb.init(project="foretell", name=run.name, dir=str(run), config=dict(settings))

    def write(self, record: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        self._run.log({k: v for k, v in record.items() if k != "step"}, step=int(record["step"]))

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def require(tracker: Tracker) -> None:
    """Raise SpecError if the tracker is not installed, before anything is written."""
    import importlib.util

    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise _missing(tracker)


def _tracker(name: Tracker, run: Path, settings: Mapping[str, Any]) -> TensorBoard | WeightsAndBiases | None:
    if name == "tensorboard":
        return TensorBoard(run)
    return WeightsAndBiases(run, settings) if name == "wandb" else None


def _missing(name: str) -> SpecError:
    return SpecError(f"{name} is not installed: pip install 'foretell[track]'")
