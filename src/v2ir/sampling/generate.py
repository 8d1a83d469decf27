"""Folders of generated pictures: one stream that can be interrupted and continued."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from v2ir import __version__
from v2ir.errors import DataError, InputError
from v2ir.files import read_json
from v2ir.images import encode_png, to_uint8
from v2ir.records import JsonRecord, Progress, no_progress
from v2ir.sampling.flow import Behind
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.sidecar import write_result
from v2ir.sampling.text_sampler import TextSampler

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PictureSidecar(JsonRecord):
    """What is written beside a picture generated from text.

    Attributes:
        model: Name of the model.
        model_hash: SHA-256 over its weights and configuration.
        prompt: The user's text.
        full_prompt: The text within the model's prompt template, as the network read it.
        number: Which of the prompt's pictures it is, from 0.
        seed: The user's seed.
        steps: Number of solver steps.
        solver: Name of the solver.
        guidance: Scale of the text.
        guidance_interval: Part of the timesteps in which it acts.
        negative_prompt: Text that guidance led away from, or None.
        width: Width in pixels.
        height: Height in pixels.
        style: Camera style, or None for no style.
        speed: Name of the speed that was asked for; what it sets stands in the others.
        reuse: The network's inner features were computed at every n-th step.
        precision: Number format of the denoising network as asked for.
        v2ir: Version of v2ir.
        synthetic: Always true: the picture was generated, not measured.
    """

    model: str
    model_hash: str
    prompt: str
    full_prompt: str
    number: int
    seed: int
    steps: int
    solver: str
    guidance: float
    guidance_interval: tuple[float, float]
    width: int
    height: int
    style: str | None = None
    negative_prompt: str | None = None
    speed: str | None = None
    reuse: int = 1
    precision: str = "float32"
    v2ir: str = ""
    synthetic: bool = True

    def agrees_with(self, other: PictureSidecar) -> bool:
        """Whether both describe the same picture.

        The version of v2ir and the name of the speed do not count.
        """
        mine, others = (
            {
                **record.to_json(),
                "v2ir": "",
                "speed": "",
                "guidance_interval": list(record.guidance_interval),
            }
            for record in (self, other)
        )
        return mine == others


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture to generate.

    Attributes:
        prompt: Its prompt.
        number: Which of the prompt's pictures it is, from 0.
        output: The infrared image to write, a .png.
    """

    prompt: Prompt
    number: int
    output: Path

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the output."""
        return self.output.with_suffix(".json")


@dataclasses.dataclass(frozen=True)
class GenerateReport:
    """What a run did.

    Attributes:
        made: Number of pictures generated.
        kept: Number of pictures that an earlier run had already made with these settings.
        failures: (picture, reason) for each that could not be generated.
    """

    made: int
    kept: int
    failures: tuple[tuple[str, str], ...]


def list_pictures(prompts: Sequence[Prompt], number: int, out: Path) -> list[Picture]:
    """List the pictures of prompts, `number` each, with the files that they get below `out`.

    Raises:
        InputError: If there are no prompts, `number` is not positive, or `out` is a file.
    """
    if not prompts:
        raise InputError("there are no prompts", do="give --prompt TEXT or --prompts FILE")
    if number < 1:
        raise InputError("the number of pictures must be positive", got=str(number))
    if out.is_file():
        raise InputError(f"{out} is a file", do="give a folder for the infrared images")
    return [
        Picture(prompt, place, out / f"{prompt.stem}-{place}.png")
        for prompt in dict.fromkeys(prompts)
        for place in range(number)
    ]


def wanted_sidecar(picture: Picture, sampler: TextSampler) -> PictureSidecar:
    """Return what the picture's sidecar must say."""
    card = sampler.model.card
    return PictureSidecar(
        model=card.name,
        model_hash=sampler.model.hash,
        prompt=picture.prompt.text,
        full_prompt=card.prompt(picture.prompt.text),
        number=picture.number,
        seed=sampler.seed,
        steps=sampler.steps,
        solver=sampler.solver,
        guidance=sampler.guidance.text,
        guidance_interval=sampler.guidance.interval,
        width=sampler.width,
        height=sampler.height,
        style=sampler.style,
        negative_prompt=sampler.negative_prompt,
        speed=sampler.speed,
        reuse=sampler.plan.reuse,
        precision=sampler.plan.precision,
        v2ir=__version__,
    )


def is_made(picture: Picture, sampler: TextSampler) -> bool:
    """Whether the picture and its sidecar exist and were made as wanted now."""
    if not (picture.output.is_file() and picture.sidecar.is_file()):
        return False
    try:
        found = PictureSidecar.from_json(read_json(picture.sidecar))
        return wanted_sidecar(picture, sampler).agrees_with(found)
    except (DataError, TypeError, AttributeError):
        return False


def generate(
    pictures: Sequence[Picture], sampler: TextSampler, progress: Progress = no_progress
) -> GenerateReport:
    """Generate pictures, each with its sidecar; those that are there already are kept.

    A picture that fails is reported and the others are still made. Each depends on its
    prompt's text, its number and the sampler's settings alone, not on the others.

    Args:
        pictures: The pictures; see `list_pictures`.
        sampler: The model with its settings.
        progress: Told (done, total) after each picture.

    Raises:
        OutputError: If the disk refuses; what was written stays valid.
    """
    return _Run(sampler, len(pictures), progress).over(pictures)


class _Run:
    """One call of `generate`; counts what becomes of its pictures."""

    def __init__(self, sampler: TextSampler, total: int, progress: Progress) -> None:
        self.sampler = sampler
        self.total = total
        self.progress = progress
        self.made = 0
        self.kept = 0
        self.failures: list[tuple[str, str]] = []

    def over(self, pictures: Sequence[Picture]) -> GenerateReport:
        with Behind(self._write, depth=2 * self.sampler.batch_size) as writer:
            for batch in self._batches(pictures):
                for picture, pixels in self._run(batch):
                    writer.put((picture, pixels))
                    self.made += 1
                    self._tell()
            writer.finish()
        return GenerateReport(self.made, self.kept, tuple(sorted(self.failures)))

    def _batches(self, pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
        batch: list[Picture] = []
        cut: set[Prompt] = set()
        for picture in pictures:
            if is_made(picture, self.sampler):
                self.kept += 1
                self._tell()
                continue
            if picture.number == 0 and self.sampler.is_cut(picture.prompt):
                cut.add(picture.prompt)
            batch.append(picture)
            if len(batch) == self.sampler.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch
        for prompt in cut:
            length = self.sampler.model.card.text_length
            logger.warning("only the first %d tokens were read of: %s", length, prompt.text)

    def _run(self, batch: Sequence[Picture]) -> list[tuple[Picture, np.ndarray]]:
        """Generate a batch; if that fails, its pictures one at a time."""
        try:
            made = self.sampler.run([(each.prompt, each.number) for each in batch])
            return list(zip(batch, made, strict=True))
        except RuntimeError as error:  # out of memory, above all
            if len(batch) == 1:
                logger.warning("%s cannot be generated", batch[0].output, exc_info=True)
                self.failures.append((batch[0].output.name, str(error).splitlines()[0]))
                self._tell()
                return []
            logger.warning("a batch of %d failed; one at a time now: %s", len(batch), error)
        return [result for picture in batch for result in self._run([picture])]

    def _write(self, result: tuple[Picture, np.ndarray]) -> None:
        picture, pixels = result
        sidecar = wanted_sidecar(picture, self.sampler)
        write_result(picture, encode_png(to_uint8(pixels)), sidecar)

    def _tell(self) -> None:
        self.progress(self.made + self.kept + len(self.failures), self.total)
