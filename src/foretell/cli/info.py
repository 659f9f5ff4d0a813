"""`foretell info`: what an episode store or a run folder holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from foretell.cli.command import Command, Context
from foretell.cli.console import number, plain, show_notice, size, table
from foretell.cli.summary import size_on_disk, summarise
from foretell.errors import CheckpointError, DataError
from foretell.spec import Spec

CARD = "card.md"
_MOST_FIELDS = 64


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """Show what an episode store or a run folder holds.

    Of a store: its spec, episodes and their lengths, and each field's range, mean and missing share, over
    every episode. Of a run: its configuration, spec, parameters and training record.

      foretell info data/rooms
      foretell info runs/rooms --json
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """An episode store, a LeRobot v3 folder, or a run folder."""

    def run(self, context: Context) -> dict[str, Any]:
        """Read; `kind` of what is returned is `store` or `run`."""
        if not self.path.exists():
            raise DataError(f"{self.path}: an episode store or a run folder expected, there is none")
        if (self.path / "config.json").is_file():
            return self._run_folder()
        return self._store(context)

    def show(self, result: dict[str, Any], console: Console) -> None:
        """Tables of what was found."""
        show_notice(result["notice"], console)
        (_show_store if result["kind"] == "store" else _show_run)(result, console)

    def _store(self, context: Context) -> dict[str, Any]:
        from foretell.episodes.store import EpisodeStore

        store = EpisodeStore(self.path)
        lengths, hz = store.lengths, store.spec.hz
        numbers = context.track(range(len(store)), "reading", len(store))
        return {
            "kind": "store",
            "path": self.path,
            "episodes": len(store),
            "steps": int(lengths.sum()),
            "seconds": float((lengths - 1).sum() / hz),
            "lengths": {
                "min": int(lengths.min()) if len(store) else None,
                "median": float(np.median(lengths)) if len(store) else None,
                "max": int(lengths.max()) if len(store) else None,
            },
            "bytes": size_on_disk(self.path),
            "fingerprint": store.fingerprint(),
            "spec": store.spec.to_json(),
            "notice": store.spec.notice,
            "metadata": store.metadata,
            "skipped": store.skipped,
            **summarise(store, numbers),
        }

    def _run_folder(self) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        from foretell.episodes.table import read_json

        config = read_json(self.path / "config.json")
        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise CheckpointError(f"{weights}: the weights of a run expected, there are none")
        try:
            with safe_open(weights, framework="numpy") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{weights}: damaged or not a safetensors file: {error}") from error
        return {
            "kind": "run",
            "path": self.path,
            "config": config,
            "spec": config.get("spec"),
            "notice": _notice(config.get("spec")),
            "card": self.path / CARD if (self.path / CARD).is_file() else None,
            "tensors": len(shapes),
            "parameters": sum(math.prod(shape) for shape in shapes.values()),
            "bytes": size_on_disk(self.path),
            "training": self._training(),
            "logs": {log.name: _last_record(log) for log in sorted(self.path.glob("*.jsonl"))},
        }

    def _training(self) -> dict[str, Any] | None:
        """What train.json says, episodes counted; None where the folder holds a model alone."""
        from foretell.episodes.table import read_json

        path = self.path / "train.json"
        if not path.exists():
            return None
        found = read_json(path)
        for part in ("training", "held_out"):
            if not isinstance(found.get(part), list):
                raise CheckpointError(f"{path}: damaged or not of foretell: a list of episodes expected in {part}")
            found[f"{part}_episodes"] = len(found.pop(part))
        return found


def _notice(spec: object) -> str:
    notice = spec.get("notice") if isinstance(spec, dict) else None
    return notice if isinstance(notice, str) else ""


def _last_record(log: Path) -> dict[str, Any]:
    """Records in a JSONL log and the last that is whole: a killed run may leave half a line."""
    records = log.read_text("utf-8", "replace").splitlines()
    for line in reversed(records):
        try:
            return {"records": len(records), "last": json.loads(line)}
        except json.JSONDecodeError:
            continue
    return {"records": 0, "last": None}


def _show_store(result: dict[str, Any], console: Console) -> None:
    lengths, spec = result["lengths"], result["spec"]
    console.print(f"[bold]{escape(str(result['path']))}[/]  episode store, {size(result['bytes'])}", soft_wrap=True)
    console.print(
        f"{result['episodes']:,} episodes of {number(lengths['min'])} to {number(lengths['max'])} steps"
        f" (median {number(lengths['median'])}), {result['steps']:,} steps, {number(spec['hz'])} a second"
    )
    for key, value in result["metadata"].items():
        if value in ({}, [], None):
            continue
        console.print(f"{escape(key)}: {escape(_short(value))}", soft_wrap=True)
    channels = table("channels", "name", "kind", "shape", "type", "role", "missing>")
    for channel in result["channels"]:
        kept = channel["dtype"] + (f" ({channel['encoding']})" if "encoding" in channel else "")
        shape = " x ".join(map(str, channel["shape"]))
        channels.add_row(channel["name"], channel["kind"], shape, kept, channel["role"], _share(channel["missing"]))
    console.print(channels)
    rows = [(c["name"], f) for c in result["channels"] for f in c.get("fields", ())]
    _show_fields(console, "values", rows)
    low, high = spec["action"]["low"], spec["action"]["high"]
    bounds = [f"{_bound(a, '-inf')} .. {_bound(b, 'inf')}" for a, b in zip(low, high, strict=True)]
    _show_fields(console, "actions", [("action", f) for f in result["actions"]], bounds)
    if result["skipped"]:
        console.print(f"not read (no channel can hold them): {', '.join(result['skipped'])}", soft_wrap=True)


def _show_fields(
    console: Console, title: str, rows: Sequence[tuple[str, dict[str, Any]]], bounds: Sequence[str] = ()
) -> None:
    if not rows:
        return
    extra = ("bounds>",) if bounds else ("missing>",)
    shown = table(title, "channel", "field", "unit", "low>", "mean>", "high>", *extra)
    for i, (name, found) in enumerate(rows[:_MOST_FIELDS]):
        figures = [number(found[part]) for part in ("low", "mean", "high")]
        last = bounds[i] if bounds else _share(found["missing"])
        shown.add_row(name, escape(found["name"]), escape(found["unit"]), *figures, last)
    console.print(shown)
    if len(rows) > _MOST_FIELDS:
        console.print(f"... and {len(rows) - _MOST_FIELDS} more; --json shows all")


def _show_run(result: dict[str, Any], console: Console) -> None:
    console.print(f"[bold]{escape(str(result['path']))}[/]  run, {size(result['bytes'])}", soft_wrap=True)
    console.print(f"{result['parameters']:,} values in {result['tensors']} tensors")
    if result["card"] is not None:
        console.print(f"model card: {escape(str(result['card']))}", soft_wrap=True)
    _show_settings(console, "configuration", {k: v for k, v in result["config"].items() if k != "spec"})
    if result["training"] is not None:
        _show_training(result["training"], console)
    if result["spec"] is not None:
        _show_spec(result["spec"], console)
    for name, log in result["logs"].items():
        if log["last"] is not None:
            console.print(f"{escape(name)}, last of {log['records']:,} records: {escape(_line(log['last']))}")


def _show_training(found: dict[str, Any], console: Console) -> None:
    said = ("store", "training_episodes", "held_out_episodes", "steps", "finished", "seconds", "frames_per_second")
    settings = found.get("config")
    settings = settings if isinstance(settings, dict) else {}
    steps, total, seconds, speed = (
        number(round(value, 1)) if isinstance(value, int | float) else "?"
        for value in (found.get("steps"), settings.get("steps"), found.get("seconds"), found.get("frames_per_second"))
    )
    console.print(
        f"trained {steps} of {total} steps in {seconds} s, {speed} frames a second,"
        f" on {found['training_episodes']:,} episodes of {escape(str(found.get('store')))},"
        f" {found['held_out_episodes']:,} held out",
        soft_wrap=True,
    )
    rest = {k: v for k, v in found.items() if k not in ("config", *said)}
    # The model's sizes stand in the configuration already.
    _show_settings(console, "training", {k: v for k, v in settings.items() if k not in ("model", "steps")} | rest)


def _show_settings(console: Console, title: str, settings: dict[str, Any]) -> None:
    shown = table(title, "setting", "value")
    for key, value in _flat(settings):
        shown.add_row(escape(key), escape(_short(value)))
    console.print(shown)


def _show_spec(data: dict[str, Any], console: Console) -> None:
    spec = Spec.from_json(data)
    channels = table(f"spec, {number(spec.hz)} steps a second", "name", "kind", "shape", "fields")
    for channel in spec.channels:
        fields = [f"{f} [{u}]" if u else f for f, u in zip(channel.fields, channel.units, strict=True)]
        channels.add_row(
            channel.name, channel.kind, " x ".join(map(str, channel.shape)), escape(_short(", ".join(fields)))
        )
    if spec.action.size:
        channels.add_row("action", "", str(spec.action.size), escape(_short(", ".join(spec.action.names))))
    console.print(channels)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any, most: int = 400) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key}={_short(part)}" for key, part in value.items())
    text = value if isinstance(value, str) else json.dumps(plain(value))
    return text if len(text) <= most else text[: most - 3] + "..."


def _line(record: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {_short(v)}" for k, v in record.items())


def _share(share: float) -> str:
    return "-" if share == 0 else f"{100 * share:.3g}%"


def _bound(value: float | None, none: str) -> str:
    return none if value is None else f"{value:g}"
