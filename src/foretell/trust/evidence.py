"""Evidence against 'as in training', gathered over an episode: e-processes from p-values.

An e-process is at most 1 on average at any time, however one chooses to stop, so that it passes 1 / level in no
more than that share of episodes (Ville 1939).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOWEST = 1e-300


def log_bet(p: Tensor) -> Tensor:
    """log of (1 - p + p ln p) / (p ln(p)^2), which is at most 1 on average for a p-value (Vovk & Wang 2021, "E-values:
    calibration, combination and applications", eq. 1: the mean over k of k p^(k-1)). Same shape, float64.
    """
    p = p.double().clamp(_LOWEST, 1.0)
    # Around 1 the formula is 0 / 0; its series there is 1/2 + (1 - p) / 6 + ...
    near = p > 1 - 1e-4
    log = torch.where(near, p.new_tensor(-1.0), p.log())
    exact = torch.log1p(p * (log - 1)) - p.log() - 2 * (-log).log()
    return torch.where(near, (0.5 + (1 - p) / 6).log(), exact)


def change_weight(step: int, length: int) -> float:
    """Prior weight that things change at this step (counted from 0): even over the first `length` steps, the usual
    length of an episode, then falling as 1 / step^2. All steps sum to 1, each part to 1/2.
    """
    return 1 / (2 * length) if step < length else length / (2 * step * (step + 1))


def persistent(log_evidence: Tensor, p: Tensor, weight: float, overlap: int) -> Tensor:
    """log of R_t = (R_(t-1) + w_t) bet(p_t)^(1/overlap): bets begun at every step and kept up since.

    log_evidence, p: (...); start with -inf at step 0. weight: w_t of `change_weight`. overlap: how many successive
    p-values see the same change; by Hoelder's inequality the tempered product is an e-process where those `overlap`
    steps apart are independent. R_t plus the weight of steps to come is at most 1 on average. It forgets: each
    ordinary step shrinks it.
    """
    opened = torch.logaddexp(log_evidence.double(), p.new_tensor(math.log(weight), dtype=torch.float64))
    return opened + log_bet(p) / overlap


def greatest(log_evidence: Tensor, p: Tensor, weight: float) -> Tensor:
    """log of the greatest w_t bet(p_t) so far, which is at most S_t of `passing` and so no less valid; shapes as there.

    For what shows once: in the sum ordinary bets add up to what a single great one gives.
    """
    return torch.maximum(log_evidence.double(), log_bet(p) + math.log(weight))


def passing(log_evidence: Tensor, p: Tensor, weight: float) -> Tensor:
    """log of S_t = S_(t-1) + w_t bet(p_t): at most 1 on average however the p-values depend on each other.

    Shapes as in `persistent`. It never forgets.
    """
    return torch.logaddexp(log_evidence.double(), log_bet(p) + math.log(weight))
