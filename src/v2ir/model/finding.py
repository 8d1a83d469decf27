"""Where a model is: inside the package, in a local folder, or on a hub."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from v2ir.errors import ModelError, UnknownNameError

CARD_NAME = "v2ir.json"
"""The file that makes a folder a model folder."""


def bundled_models() -> list[str]:
    """Return the names of the models inside the package."""
    root = Path(str(resources.files("v2ir") / "bundled"))
    return sorted(path.parent.name for path in root.glob(f"*/{CARD_NAME}"))


def find_model(name_or_path: str | Path) -> Path:
    """Return the folder of a bundled model, a local folder, or a hub repository.

    Raises:
        UnknownNameError: If nothing of that name exists here.
        ModelError: If a hub repository cannot be fetched.
    """
    path = Path(name_or_path)
    if (path / CARD_NAME).is_file():
        return path
    if path.is_dir():
        raise ModelError(
            f"{path} is not a model folder",
            got=f"no {CARD_NAME} in it",
            do="give the folder that `v2ir train` wrote under RUN/models",
        )
    name = str(name_or_path)
    if name in bundled_models():
        return Path(str(resources.files("v2ir") / "bundled" / name))
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _fetch(name)
    raise UnknownNameError.of("model", name, bundled_models())


def _fetch(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"the model {repository} cannot be fetched from the hub",
            got=str(error).splitlines()[0],
            do="check the name and the network, or give a local model folder",
        ) from error
