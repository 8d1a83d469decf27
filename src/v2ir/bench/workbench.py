"""What the parts of a bench share: settings, the model, photographs, and the way to measure."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from v2ir import __version__
from v2ir.annotation import make_captioner, make_segmenter
from v2ir.bench.journal import Journal, Sample
from v2ir.bench.machine import Meter
from v2ir.bench.pictures import write_photographs
from v2ir.bench.timing import Task, interleave
from v2ir.errors import InputError
from v2ir.model import Model, architecture, build_model, load_model
from v2ir.model.card import SpeedChoice
from v2ir.model.folding import add_guidance_embedding
from v2ir.model.small_decoder import SmallDecoder
from v2ir.model.small_encoder import SmallEncoder
from v2ir.records import Progress, no_progress
from v2ir.sampling import Annotators, TranslateSettings, Translator
from v2ir.sampling.jobs import Job
from v2ir.sampling.speeds import SPEEDS, Precision, check_precision, find_speed
from v2ir.sampling.translate import translate_jobs
from v2ir.training.recipes import load_recipe

FULL_SIZE = "full-size"
"""Name of the model of Stable Diffusion 1.5's size with random weights."""
DEFAULT_SPEEDS = tuple(name for name in SPEEDS if name != "reference")


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        model: Bundled model, model folder, hub name, or `full-size` for random weights of
            Stable Diffusion 1.5's size.
        student: Model that was distilled from it, for the speeds that need training, or
            None for the model itself; `full-size` comes with its own.
        size: Side of the square photographs and of the working image in pixels.
        images: Most photographs that one run of a quick speed translates.
        batch_sizes: Batch sizes to compare; empty is each speed's own.
        precisions: Number formats to compare; empty is each speed's own.
        speeds: Rows of `SPEEDS` to compare with the reference.
        repeats: Rounds of measurement.
        reference_steps: Measure `reference` and `exact` with so many steps and with twice
            as many, and scale to 100 along the line through both; None runs all 100.
        workers: Numbers of worker processes to compare.
        sizes: Sides to compare, in pixels.
        device: Where the networks compute.
        seconds: A part starts no further round that would end after so many seconds.
        seed: Seed of the noise.
    """

    model: str = "mini"
    size: int = 256
    images: int = 8
    batch_sizes: tuple[int, ...] = ()
    precisions: tuple[Precision, ...] = ()
    speeds: tuple[str, ...] = DEFAULT_SPEEDS
    repeats: int = 3
    reference_steps: int | None = None
    workers: tuple[int, ...] = (1, 2)
    sizes: tuple[int, ...] = (128, 256, 512)
    device: str = "cpu"
    seconds: float = 240.0
    seed: int = 0
    student: str | None = None

    def __post_init__(self) -> None:
        for name in self.speeds:
            find_speed(name)
        for name in self.precisions:
            check_precision(name)
        counts = (self.images, self.repeats, *self.batch_sizes, *self.workers)
        if min(counts) < 1 or (self.reference_steps is not None and self.reference_steps < 1):
            raise InputError("images, repeats, batches, workers and steps must be positive")
        if min(self.size, *self.sizes) < 64:
            raise InputError("sizes start at 64 px", got=f"{self.size}, {self.sizes}")

    def deciding(self) -> dict[str, Any]:
        """Return what every sample depends on; the rest stands in the samples' names."""
        fields = ("model", "student", "size", "images", "device", "seed")
        return {**{name: getattr(self, name) for name in fields}, "v2ir": __version__}


class Workbench:
    """One bench at work.

    Attributes:
        settings: What is measured.
        journal: Keeps the samples.
        meter: Takes times and memory.
        folder: Folder for photographs, outputs and models of the bench, removed later.
        model: The model, in float32, where it is loaded already.
    """

    def __init__(
        self,
        settings: BenchSettings,
        journal: Journal,
        meter: Meter,
        folder: Path,
        model: Model | None = None,
    ) -> None:
        self.settings = settings
        self.journal = journal
        self.meter = meter
        self.folder = folder
        self._model = model
        self._began = meter.clock.wall()
        self._translators: dict[str, Translator] = {}

    @functools.cached_property
    def model(self) -> Model:
        """The model, in float32; made or loaded where a part first needs it."""
        if self._model is not None:
            return self._model
        if self.settings.model == FULL_SIZE:
            return full_size_model().to(self.settings.device)
        return load_model(self.settings.model, self.settings.device)

    @functools.cached_property
    def student(self) -> Model:
        """The model of the speeds that need training: a distilled one, or the model itself."""
        if self.settings.student is not None:
            return load_model(self.settings.student, self.settings.device)
        if self.settings.model == FULL_SIZE and self._model is None:
            return full_size_student(self.model)
        return self.model

    @functools.cached_property
    def annotators(self) -> Annotators:
        """The captioner and the segmenter that the model names."""
        card, device = self.model.card, self.settings.device
        return Annotators(
            captioner=make_captioner(card.captioner, device=device) if card.captioner else None,
            segmenter=make_segmenter(card.segmenter, device=device) if card.segmenter else None,
        )

    def photographs(self, number: int, size: int | None = None) -> list[Path]:
        """Return `number` drawn photographs."""
        side = size or self.settings.size
        return write_photographs(self.folder / f"photographs-{side}", number, side)

    def jobs(self, number: int, out: Path, size: int | None = None) -> list[Job]:
        """Return jobs for `number` photographs."""
        return [
            Job(path.name, path, out / f"{path.stem}.png")
            for path in self.photographs(number, size)
        ]

    def output(self, name: str) -> Path:
        """Return the folder for the results of a task."""
        return self.folder / "out" / name.replace("/", "-").replace(" ", "-")

    def clear(self, out: Path) -> None:
        """Forget earlier results and kept embeddings."""
        shutil.rmtree(out, ignore_errors=True)
        # What was not needed so far has nothing to forget; a full-size student takes gigabytes.
        for name in {"model", "student"} & vars(self).keys():
            getattr(self, name).forget_prompts()

    def translator(self, **settings: Any) -> Translator:
        """Return a translator at the bench's size; of the student at a speed that is learned.

        Those that differ in steps alone share their networks, which are gigabytes at full size.
        """
        steps = settings.pop("steps", None)
        key = repr(sorted(settings.items()))
        if key not in self._translators:
            common = {"resolution": self.settings.size, "seed": self.settings.seed}
            learned = find_speed(settings.get("speed")).trained
            model = self.student if learned else self.model
            made = Translator(model, TranslateSettings(**{**common, **settings}))
            self._translators[key] = made
        translator = self._translators[key]
        if steps is not None:
            translator = copy.copy(translator)
            translator.plan = dataclasses.replace(translator.plan, steps=steps)
            translator.steps = steps
        return translator

    def translation(self, name: str, number: int, **settings: Any) -> Task:
        """Return the task of translating `number` photographs from file to file.

        Args:
            name: Name of the task.
            number: Number of photographs.
            **settings: Fields of `TranslateSettings`.
        """
        out = self.output(name)
        jobs = self.jobs(number, out, settings.get("resolution"))

        def translator(**changes: Any) -> Translator:
            return self.translator(**{**settings, **changes})

        def run(jobs: Sequence[Job] = jobs, **changes: Any) -> None:
            report = translate_jobs(jobs, translator(**changes), self.annotators)
            if report.failures:
                raise InputError("a drawn photograph failed", got=report.failures[0][1])

        def before() -> None:
            self.clear(out)
            translator().model.forget_prompts()

        def warm_up() -> None:
            # One batch touches everything; more would cost minutes at full size.
            before()
            run(jobs[: translator().batch_size], steps=1)

        return Task(name, run, number, warm_up=warm_up, before=before)

    def compare(
        self, tasks: Sequence[Task], progress: Progress = no_progress, repeats: int | None = None
    ) -> None:
        """Measure tasks in interleaved rounds, until the rounds or the time are over."""
        interleave(
            tasks,
            repeats or self.settings.repeats,
            self.journal,
            self.meter,
            self._is_enough,
            progress,
        )

    def _is_enough(self, round_seconds: float) -> bool:
        spent = self.meter.clock.wall() - self._began
        return spent + 1.1 * round_seconds > self.settings.seconds

    def begin(self) -> None:
        """Let a part's time start now."""
        self._began = self.meter.clock.wall()

    def once(self, name: str, run: Callable[[], object], images: int = 1) -> Sample:
        """Return the sample of a run that is done once, from the journal if it is there."""
        if not self.journal.samples(name):
            self.journal.add(name, self.meter(run, images))
        return self.journal.samples(name)[0]


def full_size_model() -> Model:
    """Build the full-size model with random weights: times do not depend on what is learned."""
    return build_model(
        architecture("sd15"),
        name=FULL_SIZE,
        resolution=256,
        captioner="statistics",
        segmenter="regions",
    )


def full_size_student(model: Model) -> Model:
    """Return what `distil`, `tiny-encoder` and `tiny-decoder` make of a full-size model.

    Guidance is folded into the network, a small encoder takes the visible image and the map
    in, and a small decoder makes the picture. What is not theirs are the teacher's own
    weights, not copies of them.
    """
    told = {"guidance_range": load_recipe("distil").stages[-1].guidance_range}
    way_in, way_out = (load_recipe(name).stages[0] for name in ("tiny-encoder", "tiny-decoder"))
    lcm = {steps: SpeedChoice(solver="lcm", steps=steps) for steps in (4, 1)}
    channels = model.card.channels
    encoder = SmallEncoder(channels, way_in.encoder_widths, way_in.encoder_blocks)
    decoder = SmallDecoder(channels, way_out.decoder_widths, way_out.decoder_blocks)
    student = dataclasses.replace(
        model,
        unet=add_guidance_embedding(model.unet),
        encoder=encoder.to(model.device).eval().requires_grad_(False),
        decoder=decoder.to(model.device).eval().requires_grad_(False),
        card=model.card.model_copy(update={**told, "speeds": {"fast": lcm[4], "one-step": lcm[1]}}),
    )
    given = dict(model.unet.named_parameters())
    for name, own in student.unet.named_parameters():
        own.data = given[name].data if name in given else own.data
    return student
