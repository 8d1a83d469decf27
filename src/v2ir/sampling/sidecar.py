"""The sidecar: how a generated image came to be, and whether it must be made again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from v2ir.errors import DataError, OutputError
from v2ir.files import read_json, write_bytes, write_json
from v2ir.records import JsonRecord
from v2ir.sampling.annotators import USER
from v2ir.sampling.jobs import Job

# What a second run must agree on for the first one's image to be kept. The caption counts
# only where the user gave it; a captioner's is a function of its version and the input.
_DECIDING = (
    "model",
    "model_hash",
    "seed",
    "steps",
    "solver",
    "guidance",
    "style",
    "resolution",
    "without",
    "reuse",
    "precision",
    "captioner",
    "segmenter",
    "input_hash",
)


@dataclasses.dataclass(frozen=True)
class Sidecar(JsonRecord):
    """What is written beside a generated image.

    Attributes:
        model: Name of the model.
        model_hash: SHA-256 over its weights and configuration.
        seed: The user's seed.
        steps: Number of solver steps.
        solver: Name of the solver.
        guidance: Scales, nesting and interval.
        resolution: Short side of the working image in pixels, or `native`.
        style: Camera style, or None for no style.
        without: Conditions that were left out on purpose.
        speed: Name of the speed that was asked for; what it sets stands in the others.
        reuse: The network's inner features were computed at every n-th step.
        precision: Number format of the denoising network as asked for; `auto` is up to
            the machine.
        input: Path of the visible image below the input folder.
        input_hash: SHA-256 of its bytes.
        caption: Caption that the image was translated with.
        captioner: `user`, or name and version of the captioner.
        segmenter: `user` with the map's hash, or name and version of the segmenter.
        geometry: Original size, working size and padding.
        v2ir: Version of v2ir.
        synthetic: Always true: the image was generated, not measured.
    """

    model: str
    model_hash: str
    seed: int
    steps: int
    solver: str
    guidance: dict[str, Any]
    resolution: int | str
    style: str | None = None
    without: tuple[str, ...] = ()
    speed: str | None = None
    reuse: int = 1
    precision: str = "float32"
    input: str = ""
    input_hash: str = ""
    caption: str | None = None
    captioner: str | None = None
    segmenter: str | None = None
    geometry: dict[str, Any] | None = None
    v2ir: str = ""
    synthetic: bool = True

    def agrees_with(self, other: Sidecar) -> bool:
        """Whether an image made as the one would come out as one made as the other."""
        keys = (*_DECIDING, "caption") if self.captioner == USER else _DECIDING
        mine, others = self.to_json(), other.to_json()
        return all(_plain(mine.get(key)) == _plain(others.get(key)) for key in keys)


def _plain(value: Any) -> Any:
    """Return the value as it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def is_done(job: Job, wanted: Sidecar) -> bool:
    """Whether the job's image and sidecar exist and were made as wanted now."""
    if not (job.output.is_file() and job.sidecar.is_file()):
        return False
    try:
        return wanted.agrees_with(Sidecar.from_json(read_json(job.sidecar)))
    except (DataError, TypeError, AttributeError):
        return False


class Written(Protocol):
    """What ends as an image with a sidecar.

    Attributes:
        output: The image.
        sidecar: The JSON file beside it.
    """

    @property
    def output(self) -> Path: ...  # noqa: D102

    @property
    def sidecar(self) -> Path: ...  # noqa: D102


def write_result(job: Written, png: bytes, sidecar: JsonRecord) -> None:
    """Write an image and its sidecar so that a kill in between leaves the job undone.

    The old sidecar goes first, because beside a new image it would say that the image
    is the old one.

    Raises:
        OutputError: If the disk refuses.
    """
    try:
        job.sidecar.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot replace {job.sidecar}", got=error.strerror) from error
    write_bytes(job.output, png)
    write_json(job.sidecar, sidecar.to_json())
