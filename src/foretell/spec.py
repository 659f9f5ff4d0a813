"""Specs (what a world shows and which actions it takes) and episodes (one recorded stretch of it)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError

Kind = Literal["image", "vector", "waveform"]
_DIMENSIONS = {"image": 3, "vector": 1, "waveform": 2}


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One named stream of an episode.

    shape: `image` (H, W, C) uint8; `vector` (F,) float in physical units; `waveform` (F, L) float,
    L fast samples per step. `fields` and `units` name each field of a vector or waveform.
    Raises SpecError where these do not fit together.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    fields: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "fields", tuple(self.fields))
        object.__setattr__(self, "units", tuple(self.units))
        if not self.name or not all(c.isalnum() or c in "_-." for c in self.name):
            raise SpecError(f"channel name {self.name!r}: expected letters, digits, '_', '-' or '.'")
        if self.kind not in get_args(Kind):
            raise SpecError(f"channel {self.name}: kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if len(self.shape) != _DIMENSIONS[self.kind] or min(self.shape) < 1:
            raise SpecError(
                f"channel {self.name}: a {self.kind} needs a shape of {_DIMENSIONS[self.kind]} positive sizes,"
                f" got {self.shape}"
            )
        if self.kind == "image":
            if self.fields or self.units:
                raise SpecError(f"channel {self.name}: an image has no fields or units")
            return
        count = self.shape[0]
        if not self.fields:
            object.__setattr__(self, "fields", tuple(f"{self.name}_{i}" for i in range(count)))
        if not self.units:
            object.__setattr__(self, "units", ("",) * count)
        for what in ("fields", "units"):
            if len(getattr(self, what)) != count:
                raise SpecError(
                    f"channel {self.name}: {count} {what} expected for shape {self.shape},"
                    f" got {len(getattr(self, what))}"
                )
        if len(set(self.fields)) != count:
            raise SpecError(f"channel {self.name}: field names must differ, got {self.fields}")


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """Names, units and bounds of the actions; all empty when nobody acts.

    `low` and `high` are in the action's own units and may be infinite. `safe` is the action to hand
    over to when the model is not to be trusted (None: the world names none). `exogenous` names those that nobody
    chooses but that are told of as they come, or before (a meal, a feed, an order): models are given them like
    actions, so that what they cause is not laid to the actions that answer them; planners leave them as they are told.
    """

    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    safe: tuple[float, ...] | None = None
    exogenous: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units) or ("",) * count)
        object.__setattr__(self, "low", tuple(map(float, self.low)) or (-math.inf,) * count)
        object.__setattr__(self, "high", tuple(map(float, self.high)) or (math.inf,) * count)
        if len(set(self.names)) != count:
            raise SpecError(f"action names must differ, got {self.names}")
        for what in ("units", "low", "high"):
            if len(getattr(self, what)) != count:
                raise SpecError(f"actions: {count} {what} expected, got {len(getattr(self, what))}")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not low < high:
                raise SpecError(f"action {name}: low {low} must be below high {high}")
        object.__setattr__(self, "exogenous", tuple(self.exogenous))
        if unknown := set(self.exogenous) - set(self.names):
            raise SpecError(f"actions: exogenous ones among {list(self.names)} expected, got {sorted(unknown)}")
        if self.safe is not None:
            object.__setattr__(self, "safe", tuple(map(float, self.safe)))
            assert self.safe is not None
            if len(self.safe) != count:
                raise SpecError(f"actions: a safe action of {count} values expected, got {len(self.safe)}")
            check_actions(self, np.array([self.safe]), "safe action")

    @property
    def size(self) -> int:
        """Number of action values per step."""
        return len(self.names)

    @property
    def chosen(self) -> tuple[bool, ...]:
        """Which of the actions somebody chooses."""
        return tuple(name not in self.exogenous for name in self.names)

    @property
    def still(self) -> NDArray[np.float64]:
        """(A,) zero, or the bound next to it."""
        return np.clip(np.zeros(self.size), self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """All a model must know about a world: saved with every episode store and checkpoint.

    observations: what the model sees. action: what it may do. hz: steps per second.
    quantities: vectors that are recorded for readouts and scoring, and that the model never sees.
    notice: what is to stand on every page and answer about this world, "" for nothing; it tells no two specs apart.
    """

    observations: tuple[Channel, ...]
    action: ActionSpec = field(default_factory=ActionSpec)
    hz: float = 1.0
    quantities: tuple[Channel, ...] = ()
    notice: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.notice, str):
            raise SpecError(f"a notice must be a text, got {self.notice!r}")
        object.__setattr__(self, "notice", " ".join(self.notice.split()))
        object.__setattr__(self, "observations", tuple(self.observations))
        object.__setattr__(self, "quantities", tuple(self.quantities))
        if not self.observations:
            raise SpecError("a spec needs at least one observation channel")
        names = [c.name for c in self.channels]
        if len(set(names)) != len(names):
            raise SpecError(f"channel names must differ, got {names}")
        if "action" in names:
            raise SpecError("a channel must not be named 'action', which stands for the actions")
        if any(c.kind != "vector" for c in self.quantities):
            raise SpecError("quantities must be vectors")
        if not (math.isfinite(self.hz) and self.hz > 0):
            raise SpecError(f"hz must be a positive number of steps per second, got {self.hz}")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Observations, then quantities."""
        return self.observations + self.quantities

    def channel(self, name: str) -> Channel:
        """The channel of that name; SpecError names those there are."""
        for channel in self.channels:
            if channel.name == name:
                return channel
        raise SpecError(f"no channel {name!r}; the spec has {[c.name for c in self.channels]}")

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable form; infinite bounds become null, and no notice is left out."""

        def channel(c: Channel) -> dict[str, Any]:
            return {
                "name": c.name,
                "kind": c.kind,
                "shape": list(c.shape),
                "fields": list(c.fields),
                "units": list(c.units),
            }

        def bounds(values: tuple[float, ...]) -> list[float | None]:
            return [v if math.isfinite(v) else None for v in values]

        action = self.action
        return {
            "observations": [channel(c) for c in self.observations],
            "action": {
                "names": list(action.names),
                "units": list(action.units),
                "low": bounds(action.low),
                "high": bounds(action.high),
                "safe": None if action.safe is None else list(action.safe),
                "exogenous": list(action.exogenous),
            },
            "hz": self.hz,
            "quantities": [channel(c) for c in self.quantities],
            **({"notice": self.notice} if self.notice else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Spec:
        """The inverse of `to_json`; SpecError where a part is missing or of the wrong type."""
        try:
            action = data["action"]
            return Spec(
                observations=tuple(_channel_from_json(c) for c in data["observations"]),
                action=ActionSpec(
                    names=_list(action["names"], str),
                    units=_list(action["units"], str),
                    low=tuple(-math.inf if v is None else v for v in _list(action["low"], int, float, type(None))),
                    high=tuple(math.inf if v is None else v for v in _list(action["high"], int, float, type(None))),
                    safe=None if action.get("safe") is None else _list(action["safe"], int, float),
                    exogenous=_list(action.get("exogenous", []), str),
                ),
                hz=float(data["hz"]),
                quantities=tuple(_channel_from_json(c) for c in data.get("quantities", ())),
                notice=data.get("notice", ""),
            )
        except SpecError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise SpecError(f"not a spec: {error!r}") from error

    def differences(self, other: Spec) -> list[str]:
        """What separates `other` from this spec, one phrase each, but for notices; empty when they are the same."""
        found: list[str] = []
        for kind, one in (("observations", "observation"), ("quantities", "quantity")):
            mine = {c.name: c for c in getattr(self, kind)}
            theirs = {c.name: c for c in getattr(other, kind)}
            found += [f"{one} {n} is missing" for n in mine if n not in theirs]
            found += [f"{one} {n} is unknown" for n in theirs if n not in mine]
            for name in mine.keys() & theirs.keys():
                for part in ("kind", "shape", "fields", "units"):
                    expected, came = getattr(mine[name], part), getattr(theirs[name], part)
                    if expected != came:
                        found.append(f"{name}: {part} {expected} expected, got {came}")
        for part in ("names", "units", "low", "high", "exogenous"):
            expected, came = getattr(self.action, part), getattr(other.action, part)
            if expected != came:
                found.append(f"action {part} {expected} expected, got {came}")
        if self.hz != other.hz:
            found.append(f"{self.hz:g} steps per second expected, got {other.hz:g}")
        return found

    def require(self, other: Spec, where: str) -> None:
        """Raise SpecError naming `where` and every difference unless `other` is this spec."""
        differences = self.differences(other)
        if differences:
            raise SpecError(f"{where}: " + "; ".join(differences))


def _channel_from_json(data: Mapping[str, Any]) -> Channel:
    return Channel(
        name=data["name"],
        kind=data["kind"],
        shape=_list(data["shape"], int),
        fields=_list(data.get("fields", []), str),
        units=_list(data.get("units", []), str),
    )


def _list(data: object, *types: type) -> tuple[Any, ...]:
    if not isinstance(data, list) or not all(isinstance(v, types) and not isinstance(v, bool) for v in data):
        raise TypeError(f"a list of {' or '.join(t.__name__ for t in types)} expected, got {data!r}")
    return tuple(data)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Steps 0..T of every channel and the T actions between them.

    observations: by channel name, (T+1, *shape); images uint8, the rest any float or integer type.
        Quantities stand here too, under their own names.
    actions: (T, A) in the action's units; `actions[t]` moves step t to t+1.
    valid: by channel name, (T+1,) or, for vectors and waveforms, (T+1, F) bool. A channel that is
        not named is valid throughout. Invalid entries hold any finite value; it is never read.
    times: (T+1,) seconds or integer ticks, kept in their own type; None means t / hz.
    group: whom or what it is about (a patient, a machine, a product), a name that identifies nobody; "" where that does
        not matter. All episodes of a group are trained on, or none.
    """

    observations: Mapping[str, NDArray[Any]]
    actions: NDArray[Any]
    valid: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    times: NDArray[Any] | None = None
    group: str = ""

    def __len__(self) -> int:
        """Number of steps observed, T + 1."""
        return len(next(iter(self.observations.values()), ()))

    def until(self, step: int) -> Episode:
        """What was seen up to `step`, that observation included, and done before it."""
        return replace(
            self,
            observations={n: x[: step + 1] for n, x in self.observations.items()},
            actions=self.actions[:step],
            valid={n: x[: step + 1] for n, x in self.valid.items()},
            times=None if self.times is None else self.times[: step + 1],
        )

    def check(self, spec: Spec, where: str) -> None:
        """Raise SpecError, naming `where`, the channel, what was expected and what came, unless this fits `spec`."""
        steps = len(self)
        for channel in spec.channels:
            if channel.name not in self.observations:
                raise SpecError(f"{where}: channel {channel.name} is missing")
            _check_channel(channel, self.observations[channel.name], self.valid.get(channel.name), steps, where)
        for name in self.observations.keys() - {c.name for c in spec.channels}:
            raise SpecError(f"{where}: channel {name} is not in the spec")
        for name in self.valid.keys() - {c.name for c in spec.channels}:
            raise SpecError(f"{where}: the mask of channel {name}, which is not in the spec")
        if not steps:
            raise SpecError(f"{where}: at least one step expected, got none")
        if not isinstance(self.group, str):
            raise SpecError(f"{where}: the name of its group must be a text, got {self.group!r}")
        expected = (steps - 1, spec.action.size)
        if self.actions.shape != expected:
            raise SpecError(
                f"{where}: actions of shape {expected} expected for {steps} steps, got {self.actions.shape}"
            )
        if self.actions.dtype.kind not in "fiu":
            raise SpecError(f"{where}: actions must be numbers, got {self.actions.dtype}")
        check_actions(spec.action, self.actions, where)
        if self.times is not None:
            if self.times.shape != (steps,):
                raise SpecError(f"{where}: {steps} times expected, got shape {self.times.shape}")
            if self.times.dtype.kind not in "fiu" or not np.isfinite(self.times).all():
                raise SpecError(f"{where}: times must be finite numbers, got {self.times.dtype}")
            # Compared in their own type: ticks beyond 2^53 differ by less than a float tells.
            if not (self.times[1:] >= self.times[:-1]).all():
                raise SpecError(f"{where}: times must not run backwards")


def check_actions(action: ActionSpec, values: NDArray[Any], where: str) -> None:
    """Raise SpecError unless every action (..., A) is finite and within its bounds (1e-6 of slack)."""
    if not np.isfinite(values).all():
        raise SpecError(f"{where}: actions must be finite, got NaN or infinity")
    for i, (name, low, high) in enumerate(zip(action.names, action.low, action.high, strict=True)):
        column = values[..., i]
        slack = 1e-6 * max(1.0, *(abs(b) for b in (low, high) if math.isfinite(b)), 1.0)
        if column.size and (column.min() < low - slack or column.max() > high + slack):
            raise SpecError(
                f"{where}: action {name} must be within [{low:g}, {high:g}], got [{column.min():g}, {column.max():g}]"
            )


def _check_channel(
    channel: Channel, values: NDArray[Any], valid: NDArray[np.bool_] | None, steps: int, where: str
) -> None:
    expected = (steps, *channel.shape)
    if values.shape != expected:
        raise SpecError(f"{where}: channel {channel.name} of shape {expected} expected, got {values.shape}")
    if channel.kind == "image":
        if values.dtype != np.uint8:
            raise SpecError(f"{where}: channel {channel.name} must be uint8 (8 bits a colour), got {values.dtype}")
    elif values.dtype.kind not in "fiu":
        raise SpecError(f"{where}: channel {channel.name} must be numbers, got {values.dtype}")
    if valid is not None:
        shapes = [(steps,)] if channel.kind == "image" else [(steps,), (steps, channel.shape[0])]
        if valid.shape not in shapes or valid.dtype != np.bool_:
            raise SpecError(
                f"{where}: the mask of channel {channel.name} must be bool of shape"
                f" {' or '.join(map(str, shapes))}, got {valid.dtype} {valid.shape}"
            )
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if valid is not None:
            finite = finite | ~valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            raise SpecError(
                f"{where}: channel {channel.name} holds NaN or infinity at step {step}; mark missing values in its mask"
            )
