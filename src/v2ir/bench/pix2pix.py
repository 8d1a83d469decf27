"""Against diffusers' InstructPix2Pix pipeline: same weights, steps, guidance and pictures.

The pipeline takes 8 input channels alone (noise and one image), so the bench makes a model
that is told the visible image and the text, saves it, and both load that folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from v2ir.bench.journal import Cell, Section
from v2ir.bench.pictures import draw_street
from v2ir.bench.timing import Task, median_seconds, paired_ratio
from v2ir.bench.workbench import FULL_SIZE, Workbench
from v2ir.model import Architecture, Guidance, Model, architecture, build_model, load_model
from v2ir.model.card import SpeedChoice
from v2ir.records import Progress
from v2ir.sampling import TranslateSettings, Translator
from v2ir.sampling.speeds import Precision
from v2ir.sampling.translator import Prepared

CAPTION = "a street with houses and people"
SCALES = Guidance(text=7.5, visible=1.5)
SOLVER = "euler_ancestral"
BATCH_SIZES = (1, 8)


def pipeline_architecture(full_size: bool) -> Architecture:
    """Return the sizes of a model that both can load.

    Args:
        full_size: Stable Diffusion 1.5's sizes; otherwise the denoiser of `mini` with a
            small KL autoencoder, because the pipeline knows no other kind.
    """
    base = architecture("sd15")
    if full_size:
        return base.model_copy(update={"unet": {**base.unet, "in_channels": 8}})
    small = architecture("mini")
    autoencoder = {
        **base.autoencoder,
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "norm_num_groups": 16,
    }
    return base.model_copy(
        update={
            "autoencoder": autoencoder,
            "unet": {**small.unet, "in_channels": 8, "out_channels": 4},
            "text_encoder": {**small.text_encoder, "vocab_size": 1000},
        }
    )


def save_pipeline_model(folder: Path, sizes: Architecture, seed: int = 0) -> Path:
    """Write a model with random weights that is told the text and the visible image."""
    model = build_model(
        sizes,
        name="visible-only",
        seed=seed,
        words=f"turn the visible image into infrared {CAPTION}".split(),
        conditions=("text", "visible"),
        multiple=8 * 2 ** (len(sizes.unet["block_out_channels"]) - 1),
        guidance=SCALES,
        speeds={"exact": SpeedChoice(solver=SOLVER, steps=100, guidance=SCALES)},
    )
    model.save(folder)
    return folder


def load_pipeline(folder: Path, solver_config: Any, device: str) -> Any:
    """Load the folder as diffusers' pipeline, with the ancestral Euler scheduler."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )
    from diffusers.utils import logging

    from v2ir.sampling.solvers import make_scheduler

    logging.disable_progress_bar()  # the command line has its own
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        folder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    logging.enable_progress_bar()
    pipeline.scheduler = make_scheduler(SOLVER, solver_config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@dataclasses.dataclass(frozen=True)
class Contest:
    """Both sides with one model.

    Attributes:
        model: The model as it was loaded.
        settings: What ours is asked for.
        pipeline: Theirs.
    """

    model: Model
    settings: TranslateSettings
    pipeline: Any

    @functools.cached_property
    def translator(self) -> Translator:
        """Ours."""
        return Translator(self.model, self.settings)

    def computed_in(self, precision: Precision) -> Contest:
        """Return the same with our network in a number format; theirs stays in float32."""
        settings = dataclasses.replace(self.settings, precision=precision)
        return dataclasses.replace(self, settings=settings)

    def ours(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Translate HWC uint8 pictures together to HW float32 in [0, 1]."""
        self.translator.model.forget_prompts()
        return self.translator.run([self._prepared(picture) for picture in pictures])

    def _prepared(self, picture: np.ndarray) -> Prepared:
        key = str(int(picture.sum()))
        return self.translator.prepare(picture, key=key, caption=CAPTION)

    def theirs(self, pictures: Sequence[np.ndarray], **more: Any) -> list[np.ndarray]:
        """Translate HWC uint8 pictures together to HW float32 in [0, 1]."""
        made = self.pipeline(
            prompt=[self.model.card.prompt(CAPTION)] * len(pictures),
            image=[Image.fromarray(picture) for picture in pictures],
            num_inference_steps=self.settings.steps,
            guidance_scale=SCALES.text,
            image_guidance_scale=SCALES.visible,
            output_type="np",
            **more,
        )
        return [picture.mean(axis=2) for picture in made.images]


def contest(folder: Path, steps: int, size: int, batch: int, device: str = "cpu") -> Contest:
    """Load a model folder on both sides.

    Args:
        folder: What `save_pipeline_model` wrote.
        steps: Solver steps.
        size: Side of the pictures in pixels.
        batch: Pictures together.
        device: Where both compute.
    """
    model = load_model(folder, device)
    settings = TranslateSettings(
        speed="exact", steps=steps, resolution=size, batch_size=batch, guidance=SCALES
    )
    pipeline = load_pipeline(folder, model.scheduler.config, device)
    return Contest(model, settings, pipeline)


def measure_pix2pix(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Measure both sides in turns, from pictures in memory to pictures in memory."""
    settings = bench.settings
    full_size = settings.model == FULL_SIZE
    steps = settings.reference_steps or (4 if full_size else 20)
    kind = "full size" if full_size else "small"
    batches = settings.batch_sizes or BATCH_SIZES
    folder = bench.folder / "visible-only"
    save_pipeline_model(folder, pipeline_architecture(full_size))
    plain = contest(folder, steps, settings.size, max(batches), settings.device)
    sides = {name: plain.computed_in(name) for name in settings.precisions} or {"float32": plain}
    rows, tasks = [], []
    for batch in batches:
        pictures = [draw_street(seed, settings.size, settings.size)[0] for seed in range(batch)]
        title = f"instruct-pix2pix/{kind}, {steps} steps, {{}}, batch {batch}"
        theirs = _task(title.format("diffusers"), plain.theirs, pictures)
        for precision, side in sides.items():
            name = "ours" + (f" in {precision}" if settings.precisions else "")
            rows.append((precision, _task(title.format(name), side.ours, pictures), theirs))
            tasks.append(rows[-1][1])
        tasks.append(theirs)
    bench.compare(tasks, progress)
    what = "Stable Diffusion 1.5's size" if full_size else "a small model"
    section = Section(
        "instruct-pix2pix",
        f"{what}, random weights, {settings.size} px, {steps} steps, {settings.device}",
        (
            "batch",
            "format",
            "runs",
            "diffusers s/image",
            "v2ir s/image",
            "ratio",
            "CPU ratio",
        ),
        tuple(_row(bench, *row) for row in rows),
        (
            "StableDiffusionInstructPix2PixPipeline and v2ir at the speed exact: same folder of "
            f"weights, {steps} ancestral Euler steps, text 7.5, image 1.5, three evaluations a "
            "step, pictures in memory; the pipeline in float32, v2ir as the row says.",
        ),
    )
    return (section,)


def _task(title: str, run: Any, pictures: Sequence[np.ndarray]) -> Task:
    return Task(title, lambda: run(pictures), len(pictures), warm_up=lambda: run(pictures[:1]))


def _row(bench: Workbench, precision: str, ours: Task, theirs: Task) -> tuple[Cell, ...]:
    mine, other = bench.journal.samples(ours.name), bench.journal.samples(theirs.name)
    return (
        ours.images,
        precision,
        len(mine),
        median_seconds(other),
        median_seconds(mine),
        paired_ratio(other, mine),
        paired_ratio(other, mine, "processor"),
    )
