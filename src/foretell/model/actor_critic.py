"""An actor and a critic: what to do at a latent on the way to another, and what the whole way costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import SpecError, require_whole
from foretell.model.predictor import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class Sought:
    """What is asked for on a way, and the sizes of who is to know it."""

    width: int = 256
    """Width of both networks."""
    depth: int = 2
    """Residual blocks of both networks."""
    scale: float = 0.2
    """How near is near: a difference of two latents, in one value of weight 1, that costs half of what the largest
    does; twice that far away one has not arrived."""
    weights: tuple[float, ...] = ()
    """Of the differences of a latent's first values in what being elsewhere costs; the others count with 1."""
    near: tuple[float, ...] = ()
    """The same in whether one has arrived."""
    hurry: float = 0.5
    """Share of a block's cost that is the same wherever one is, until one has arrived."""
    discount: float = 0.97
    """Of each block."""

    def __post_init__(self) -> None:
        require_whole("actor-critic", self, 1, "width", "depth")
        for name in ("weights", "near"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.require_fits()
        if not (self.scale > 0 and 0 <= self.hurry <= 1 and 0 < self.discount < 1):
            raise SpecError(
                "actor-critic: scale above 0, hurry in [0, 1] and discount in (0, 1) expected, got"
                f" {self.scale}, {self.hurry} and {self.discount}"
            )

    def require_fits(self, latent: int | None = None) -> None:
        """SpecError where weights are negative, or more than a latent, where one is named, has values."""
        for name in ("weights", "near"):
            values = getattr(self, name)
            if (latent is not None and len(values) > latent) or not all(0 <= w < float("inf") for w in values):
                most = "" if latent is None else f"at most {latent} "
                raise SpecError(f"actor-critic: {name}: {most}numbers of 0 or more expected, got {values}")

    def sought(self) -> dict[str, Any]:
        """These settings, of whatever has them."""
        return {field.name: getattr(self, field.name) for field in fields(Sought)}


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(Sought):
    """The same for one model.

    latent: N * D values of what is seen, and as many of what is wanted. action: values of a block of actions.
    bound: the largest action, in standard deviations of the recorded ones.
    """

    latent: int
    action: int
    bound: float = 3.0

    def __post_init__(self) -> None:
        require_whole("actor-critic", self, 1, "latent", "action")
        self.require_fits(self.latent)
        super().__post_init__()
        if not self.bound > 0:
            raise SpecError(f"actor-critic: bound above 0 expected, got {self.bound}")


class ActorCritic(nn.Module):
    """Goal-conditioned, on frozen latents of a world model.

    A block that ends at z on the way to g costs c(z, g) in [0, 1], and with probability s(z, g) the way ends there:

        q = sum_i (w_i (z_i - g_i) / scale)^2, with the weights; r the same with `near`
        s = exp(-r^2),  c = (1 - hurry) q / (1 + q) + hurry (1 - s)

    The critic tells the cost that is still to come, V(z, g) = c(z', g) + discount (1 - s(z', g)) V(z', g), of acting
    well: time, mostly, until one has arrived. s falls so fast outside that waiting nearby does not pay.
    """

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.actor, self.critic = (_network(3 * config.latent, config, out) for out in (config.action, 1))
        for name in ("weights", "near"):
            given = torch.tensor(getattr(config, name), dtype=torch.float32)
            each = torch.cat([given, torch.ones(config.latent - len(given))]) / config.scale
            self.register_buffer(f"_{name}", each, persistent=False)

    def act(self, now: Tensor, goal: Tensor) -> Tensor:
        """Normalised actions (..., action) at latents (..., N, D) on the way to goals (..., N, D)."""
        found = torch.as_tensor(self.actor(_both(now, goal))).float()
        return found.clamp(-self.config.bound, self.config.bound)

    def value(self, now: Tensor, goal: Tensor) -> Tensor:
        """The cost to come (...), in blocks, between 0 and 1 / (1 - discount), from (..., N, D) to (..., N, D)."""
        found = torch.as_tensor(self.critic(_both(now, goal))).float()
        return found.squeeze(-1).sigmoid() / (1 - self.config.discount)

    def step(self, latents: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """What a block that ends at latents (..., N, D) costs (...), and the share (...) in which the way goes on."""
        change = (latents - goal).flatten(-2)
        far = (change * self.get_buffer("_weights")).square().sum(-1)
        on = 1 - torch.exp(-(change * self.get_buffer("_near")).square().sum(-1).square())
        hurry = self.config.hurry
        return (1 - hurry) * far / (1 + far) + hurry * on, on

    def along(self, latents: Tensor, goal: Tensor) -> Tensor:
        """What each block of a way adds to its cost (B, S, K), for latents (B, S, K, N, D) and goals (B, N, D): counted
        as far as one is still on the way, the last one with all that is still to come.
        """
        goal = goal[:, None, None].expand_as(latents)
        costs, on = self.step(latents, goal)
        left = (self.config.discount * on).cumprod(-1)
        to_come = left[..., -1:] * self.value(latents[:, :, -1:], goal[:, :, -1:])
        costs = costs * torch.cat([torch.ones_like(left[..., :1]), left[..., :-1]], dim=-1)
        return torch.cat([costs[..., :-1], costs[..., -1:] + to_come], dim=-1)

    def to_json(self) -> dict[str, Any]:
        """The configuration, JSON-serialisable."""
        return asdict(self.config)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ActorCritic:
        """The inverse of `to_json`, with fresh weights; SpecError for unknown or missing settings."""
        try:
            return ActorCritic(ActorCriticConfig(**data))
        except TypeError as error:
            raise SpecError(f"actor-critic: {error}") from error


def _both(now: Tensor, goal: Tensor) -> Tensor:
    now, goal = now.flatten(-2), goal.flatten(-2)
    return torch.cat([now, goal, 2 * (goal - now)], dim=-1)


def _network(size: int, config: ActorCriticConfig, out: int) -> nn.Sequential:
    last = nn.Linear(config.width, out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    blocks = (ResidualBlock(config.width) for _ in range(config.depth))
    return nn.Sequential(nn.Linear(size, config.width), *blocks, nn.LayerNorm(config.width), nn.GELU(), last)
