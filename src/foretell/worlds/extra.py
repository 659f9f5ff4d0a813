"""Simulators of the extra `robots`, imported where a world needs them."""

from __future__ import annotations

import importlib
from typing import Any

from foretell.errors import SpecError


def needed(module: str, world: str) -> Any:
    """The module; SpecError that names the extra where it is not installed or does not work."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SpecError(
            f"{world}: {module} is not installed or does not work ({error}); pip install 'foretell[robots]'"
        ) from error
