"""Weights of annotators: a local folder or a hub name, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from v2ir.errors import MissingExtraError, ModelError

logger = logging.getLogger(__name__)

# Pickles come only where a repository has nothing else; transformers opens them with
# weights_only=True.
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
_PICKLES = ["pytorch_model*.bin"]
_BLOCK = 65_536
_BLOCKS = 64


def find_weights(name: str) -> Path:
    """Return the folder of an annotator's weights, fetched from the hub where needed.

    Args:
        name: A folder that `save_pretrained` wrote, or a hub name such as
            `Salesforce/blip-image-captioning-base`.

    Raises:
        ModelError: If the folder holds no model, or the hub does not give it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model of transformers",
            got="no config.json",
            do="give a folder that save_pretrained wrote, or a hub name",
        )
    if not _weight_files(folder):
        raise ModelError(
            f"{folder} holds no weights",
            got="no .safetensors and no .bin file",
            do="save the model with safetensors",
        )
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    failures = (OSError, HfHubHTTPError, HFValidationError, ValueError)
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
        if not _weight_files(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *_PICKLES]))
    except failures as error:
        raise ModelError(
            f"the weights {name} are not available",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else None,
            do="check the name and the network, or give the folder of a local copy",
        ) from error
    logger.info("weights of %s in %s", name, folder)
    return folder


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    return files or sorted(folder.glob("pytorch_model*.bin"))


def read_config(folder: Path, file: str = "config.json") -> dict[str, Any]:
    """Return a configuration of a model folder; empty where there is no such file.

    Raises:
        ModelError: If the file is not a JSON object.
    """
    path = folder / file
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no configuration", got=type(value).__name__)
    return value


def fingerprint(folder: Path) -> str:
    """Return 16 digits that change with the configuration and the weights of a folder.

    Of a weights file its size and 64 evenly spaced blocks are read, since gigabytes would
    take long on every start, and training changes all of a file.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for path in _weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            for block in range(_BLOCKS):
                stream.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:16]


def short_name(weights: str) -> str:
    """Return how results name their weights: the hub name, or a folder's own name.

    A folder's path is left out, so that moving it makes no result stale.
    """
    folder = Path(weights).expanduser()
    return folder.resolve().name if folder.is_dir() else weights


def cannot_load(name: str, error: Exception) -> ModelError | MissingExtraError:
    """Return what to raise when transformers cannot load a model or its processor."""
    text = str(error).strip().splitlines()
    reason = next((line.strip() for line in text if line.strip()), type(error).__name__)
    if isinstance(error, ImportError):
        package = "torchvision" if "torchvision" in str(error) else "an optional package"
        return MissingExtraError(
            f"{name} needs {package}, which is not installed",
            got=reason[:200],
            do=f"install {package}, or take another model",
        )
    return ModelError(f"{name} cannot be loaded", got=reason[:200], do="check the folder")
