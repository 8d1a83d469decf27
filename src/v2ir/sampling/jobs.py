"""Which files are to be translated, and under which names the results are kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path, PurePosixPath

from v2ir.errors import InputError
from v2ir.files import image_paths


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to translate.

    Attributes:
        name: Path below the input folder, with its extension, with `/`.
        source: The visible image.
        output: The infrared image to write, a .png.
    """

    name: str
    source: Path
    output: Path

    @property
    def scene(self) -> str:
        """Name of the scene: the path without its extension."""
        return PurePosixPath(self.name).with_suffix("").as_posix()

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the output."""
        return self.output.with_suffix(".json")


def find_jobs(source: Path, out: Path) -> list[Job]:
    """List the images of a file, a folder or a data set, with the names of their outputs.

    A folder is searched with its subfolders, whose structure the outputs keep; of a data
    set the folder `rgb/` is taken. An output has the name of its input with .png for the
    extension. Inputs that differ in their extension alone keep it, as `a.jpg.png` and
    `a.bmp.png`, so that none overwrites another.

    Args:
        source: An image, a folder with images, or a data set folder with `rgb/`.
        out: Folder of the outputs; for a single image it may be a name ending in .png.

    Raises:
        InputError: If there is nothing to translate, or an output would overwrite an input.
    """
    if source.is_file():
        single = out if out.suffix.lower() == ".png" else out / f"{source.stem}.png"
        jobs = [Job(source.name, source, single)]
    elif source.is_dir():
        jobs = _jobs_of_folder(source / "rgb" if (source / "rgb").is_dir() else source, out)
    else:
        raise InputError(f"{source} does not exist", do="give an image or a folder of images")
    if out.is_file() and jobs[0].output != out:
        raise InputError(f"{out} is a file", do="give a folder for the infrared images")
    _refuse_overwriting(jobs)
    return jobs


def _jobs_of_folder(folder: Path, out: Path) -> list[Job]:
    # Results of an earlier run may lie inside the input folder.
    inside = out.resolve()
    paths = [path for path in image_paths(folder) if inside not in path.resolve().parents]
    if inside == folder.resolve():
        raise InputError(
            "the infrared images would lie between the visible ones",
            got=str(out),
            do="give another folder for them",
        )
    if not paths:
        raise InputError(f"{folder} holds no images", do="give a folder with images")
    names = [path.relative_to(folder) for path in paths]
    shared = Counter(name.with_suffix("") for name in names)
    jobs = []
    for name, path in zip(names, paths, strict=True):
        stem = name.name if shared[name.with_suffix("")] > 1 else name.stem
        jobs.append(Job(name.as_posix(), path, out / name.parent / f"{stem}.png"))
    return jobs


def _refuse_overwriting(jobs: list[Job]) -> None:
    outputs = Counter(job.output for job in jobs)
    for job in jobs:
        if outputs[job.output] > 1:
            names = [other.name for other in jobs if other.output == job.output]
            raise InputError(
                f"several inputs would be written to {job.output}",
                got=", ".join(names),
                do="rename one of them",
            )
    taken = {job.source.resolve() for job in jobs} & {job.output.resolve() for job in jobs}
    if taken:
        raise InputError(
            "an infrared image would overwrite an input",
            got=str(min(taken)),
            do="give another folder for the infrared images",
        )
