"""Checkpoints: a folder with a model's description (config.json) and its weights (model.safetensors).

Nothing in one is ever executed: types come from the closed registry `PARTS`, weights from safetensors.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from foretell import __version__
from foretell.episodes.table import read_json, write_json, write_whole
from foretell.errors import CheckpointError, DataError, SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import Spec

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MODEL = "model"

PARTS: dict[str, str] = {
    "temporal_distance": "foretell.model.distance:TemporalDistance",
    "readout": "foretell.model.readout:Readout",
    "trust": "foretell.trust.calibration:Calibration",
    "intervals": "foretell.trust.intervals:Intervals",
    "support": "foretell.trust.support:Support",
    "departures": "foretell.trust.departures:Departures",
    "overlap": "foretell.trust.overlap:Overlap",
    "imitation": "foretell.model.imitation:Imitation",
    "actor_critic": "foretell.model.actor_critic:ActorCritic",
}
"""Heads that may travel with a model, by kind; a part is named `KIND`, or `KIND.NAME` where there may be several.

Beside being an `nn.Module`, such a class has `to_json()`, its configuration, and a static `from_json(data)`, a
module of that configuration with its weights yet to be loaded, which raises SpecError where it does not fit.
"""


@dataclass(frozen=True)
class Checkpoint:
    """A world model and the heads saved with it, by name, all in evaluation mode."""

    model: WorldModel
    parts: Mapping[str, nn.Module] = field(default_factory=dict)


def save(folder: Path, model: WorldModel, parts: Mapping[str, nn.Module] | None = None, *, half: bool = False) -> None:
    """Write the model and its parts into `folder`, which may hold other files; each file is whole or not there.

    Weights go first and a load skips those of parts that config.json does not name, so that a crash in
    between leaves what was there before readable. half: learned values in half precision, as far as they fit into it,
    and the buffers that a module names in `fitted`; what was measured, such as normalisation and calibration, stays as
    it is. Raises SpecError for a part of no registered kind.
    """
    described: dict[str, Any] = {}
    heads: Mapping[str, Any] = parts or {}
    modules: dict[str, nn.Module] = {_MODEL: model}
    for name, part in heads.items():
        if type(part) is not _kind(name):
            raise SpecError(f"part {name}: a {_kind(name).__name__} expected, got a {type(part).__name__}")
        described[name] = part.to_json()
        modules[name] = part
    prefixes = sorted(map(_prefix, modules))
    for one, other in itertools.pairwise(prefixes):
        if other.startswith(one):
            raise SpecError(f"parts {one[:-1]} and {other[:-1]}: name both, as KIND.NAME")
    config = {
        "format": FORMAT,
        "foretell": __version__,
        "spec": model.spec.to_json(),
        "model": dataclasses.asdict(model.config),
        "parts": described,
    }
    folder = Path(folder)
    tensors = {_prefix(n) + k: v for n, m in modules.items() for k, v in m.state_dict().items()}
    if half:
        learned = [_prefix(n) + k for n, m in modules.items() for k, _ in m.named_parameters()]
        fitted = [
            f"{where}.{k}"
            for n, m in modules.items()
            for where, inner in m.named_modules(prefix=_prefix(n)[:-1])
            for k in getattr(inner, "fitted", ())
        ]
        tensors |= {name: _halved(tensors[name]) for name in learned + fitted}
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def load(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """The model and parts of a checkpoint folder, on `device`, in evaluation mode.

    Raises CheckpointError, naming the file, where one is missing, damaged, foreign or of a newer version.
    """
    folder = Path(folder)
    path = folder / CONFIG
    config = read_config(folder)
    try:
        spec = Spec.from_json(config["spec"])
        settings = _mapping(config["model"])
        model = WorldModel(spec, ModelConfig(**settings))
        modules: dict[str, nn.Module] = {_MODEL: model}
        for name, data in _mapping(config["parts"]).items():
            modules[name] = _kind(name).from_json(_mapping(data))
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing") from error
    except (SpecError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged, or not of foretell: {error}") from error
    tensors, _ = read_tensors(folder / WEIGHTS)
    for name, module in modules.items():
        prefix = _prefix(name)
        mine = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        fill(module, mine, f"{folder / WEIGHTS}: {name}")
        module.to(device).eval()
    del modules[_MODEL]
    return Checkpoint(model, modules)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder of a format that we read; CheckpointError otherwise."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: a run folder expected, there is none; `foretell train` makes one")
    try:
        config = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    found = config.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise CheckpointError(f"{path}: not a checkpoint of foretell: format {FORMAT} expected, got {found!r}")
    if found > FORMAT:
        raise CheckpointError(
            f"{path}: format {FORMAT} expected, got {found}, written by foretell {config.get('foretell')}; upgrade"
        )
    return config


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors, and what JSON can hold, into one safetensors file that is whole or not there."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    notes = None if metadata is None else {name: json.dumps(value) for name, value in metadata.items()}
    content = to_bytes(plain, notes)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `write_tensors`: tensors and metadata; CheckpointError where the file is damaged or foreign."""
    if not path.is_file():
        raise CheckpointError(f"{path}: weights expected, there are none")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {error}") from error
    return tensors, notes


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module that has exactly these, in its precision or half of it; CheckpointError, beginning
    with `where`, otherwise.
    """
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        problem, names = ("is missing", missing) if missing else ("is unknown", unknown)
        raise CheckpointError(f"{where}: {names[0]} {problem} ({len(missing)} missing, {len(unknown)} unknown)")
    for name, value in wanted.items():
        came = tensors[name]
        kinds = (value.dtype, torch.float16) if value.dtype == torch.float32 else (value.dtype,)
        if came.shape != value.shape or came.dtype not in kinds:
            raise CheckpointError(
                f"{where}: {name}: {value.dtype} {tuple(value.shape)} expected, got {came.dtype} {tuple(came.shape)}"
            )
        if came.is_floating_point() and not torch.isfinite(came).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinity")
    module.load_state_dict(dict(tensors))


def _halved(values: Tensor) -> Tensor:
    """In half precision, unless a value is too large for it."""
    half = values.detach().to(torch.float16)
    return half if bool(half.isfinite().all()) else values


def _kind(name: str) -> Any:
    """The registered class of a part's name."""
    kind = name.split(".", 1)[0]
    if kind not in PARTS:
        raise SpecError(f"part {name!r}: one of the kinds {', '.join(PARTS)} expected")
    module, _, attribute = PARTS[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _prefix(name: str) -> str:
    """What the names of a part's tensors begin with; a NAME's own dots become slashes, to end where it ends."""
    kind, dot, rest = name.partition(".")
    return f"{kind}{dot}{rest.replace('.', '/')}."


def _mapping(data: object) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"an object expected, got {data!r}")
    return data
