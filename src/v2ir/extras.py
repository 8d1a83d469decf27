"""Packages that only some installations have."""

from __future__ import annotations

import importlib
from typing import Any

from v2ir.errors import MissingExtraError


def optional_module(name: str, extra: str, otherwise: str = "") -> Any:
    """Import a package that an extra brings.

    Args:
        name: Name of the module.
        extra: Name of the extra.
        otherwise: What to do instead of installing it, if anything.

    Raises:
        MissingExtraError: If it is not there, or is there but broken.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        cure = f"install it with: pip install 'v2ir[{extra}]'"
        raise MissingExtraError(
            f"{name} cannot be imported",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            do=f"{cure}, {otherwise}" if otherwise else cure,
        ) from error
