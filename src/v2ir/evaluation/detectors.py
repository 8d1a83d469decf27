"""Detectors that tell the objects of an image: ONNX files and models of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from v2ir.errors import DataError, ModelError
from v2ir.evaluation.boxes import Box, BoxSource, SizeOf, overlaps, read_boxes
from v2ir.evaluation.voc import is_voc, read_voc
from v2ir.extras import optional_module
from v2ir.files import hash_file
from v2ir.images import resize

LEAST_SCORE = 0.05
SUPPRESSION_OVERLAP = 0.45
GREY_PADDING = 114
YOLOX_STRIDES = (8, 16, 32)

_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
COCO_CLASSES = tuple(name.strip() for name in _COCO_NAMES.split(","))


def load_box_source(text: str, size_of: SizeOf, classes: Path | None = None) -> BoxSource:
    """Open what `--detector` or `--boxes` names.

    Args:
        text: An `.onnx` file; a folder or hub name that transformers'
            `AutoModelForObjectDetection` opens; a COCO JSON file; or a folder of YOLO or VOC
            files.
        size_of: Sizes of the images, for relative boxes.
        classes: File with one class name a line, for an ONNX file; COCO's 80 if None.

    Raises:
        MissingExtraError: If a package is missing.
        ModelError: If the detector cannot be opened.
        DataError: If a file of boxes cannot be read.
    """
    path = Path(text)
    if path.suffix.lower() == ".onnx":
        names = classes.read_text(encoding="utf-8").split("\n") if classes else COCO_CLASSES
        return OnnxDetector(path, tuple(name.strip() for name in names if name.strip()))
    if is_voc(path) and not (path / "config.json").is_file():
        return read_voc(path)
    if path.suffix.lower() == ".json" or (path.is_dir() and not (path / "config.json").is_file()):
        return read_boxes(path, size_of)
    return TransformersDetector(text)


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into a square input.

    Attributes:
        pixels: The input, HWC uint8 RGB, padded with grey on the right and below.
        scale: Input pixels an image pixel.
    """

    pixels: np.ndarray
    scale: float

    @classmethod
    def of(cls, image: np.ndarray, side: int) -> Letterbox:
        """Fit an image, HW or HWC uint8, into `side` x `side` pixels."""
        colours = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        scale = side / max(image.shape[:2])
        width, height = (max(1, round(length * scale)) for length in image.shape[1::-1])
        pixels = np.full((side, side, 3), GREY_PADDING, dtype=np.uint8)
        pixels[:height, :width] = resize(colours, width, height)
        return cls(pixels, scale)


class OnnxDetector:
    """A one-stage detector in an ONNX file; a `BoxSource`.

    Two forms are known by the shape of the output. YOLOX as exported by its own project:
    1 x N x (5 + classes) on grids of stride 8, 16 and 32, input BGR 0..255. YOLO of the
    eighth generation and later: 1 x (4 + classes) x N in input pixels, input RGB 0..1.

    Args:
        path: The file.
        classes: Names of the classes in the network's order.

    Raises:
        MissingExtraError: If onnxruntime is missing.
        ModelError: If the file is not such a detector.
    """

    def __init__(self, path: Path, classes: Sequence[str] = COCO_CLASSES) -> None:
        runtime = optional_module("onnxruntime", "detect")
        if not path.is_file():
            raise ModelError(f"{path} does not exist", do="check the path of the detector")
        options = runtime.SessionOptions()
        # Images are spread over threads; more inside each would only fight for the cores.
        options.intra_op_num_threads = 1
        try:
            session = runtime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes that it does not export
            raise ModelError(f"{path} is not an ONNX network", got=str(error)) from error
        self.name, self.version = path.stem, hash_file(path)[:16]
        self._session, self._classes = session, tuple(classes)
        entry, result = session.get_inputs()[0], session.get_outputs()[0]
        self._input, shape = entry.name, result.shape
        self._side = entry.shape[2] if isinstance(entry.shape[2], int) else 640
        self._is_yolox = _is_yolox(shape, len(self._classes), path)

    def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
        """Return the objects of an image, HW or HWC uint8."""
        fitted = Letterbox.of(image, self._side)
        pixels = fitted.pixels[..., ::-1] if self._is_yolox else fitted.pixels / 255.0
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        output = self._session.run(None, {self._input: batch})[0][0]
        rows = decode_yolox(output, self._side) if self._is_yolox else decode_yolo(output)
        rows[:, :4] /= fitted.scale
        height, width = image.shape[:2]
        rows[:, [0, 2]] = rows[:, [0, 2]].clip(0, width)
        rows[:, [1, 3]] = rows[:, [1, 3]].clip(0, height)
        return suppressed(_named(rows, self._classes))


def _is_yolox(shape: Sequence[object], num_classes: int, path: Path) -> bool:
    if len(shape) == 3 and shape[2] == 5 + num_classes:
        return True
    if len(shape) == 3 and shape[1] == 4 + num_classes:
        return False
    raise ModelError(
        f"the output of {path} is of no known form",
        got=f"shape {tuple(shape)} with {num_classes} classes",
        do="give 1 x N x (5 + classes) or 1 x (4 + classes) x N, or its names by --classes FILE",
    )


def decode_yolox(output: np.ndarray, side: int) -> np.ndarray:
    """Turn raw N x (5 + C) into N x (4 + C): corners in input pixels, class scores.

    Centre = (output + cell) * stride, size = exp(output) * stride, score = objectness *
    class. Source: Ge et al., 2021, section 2.1, and the project's ONNX demo.
    """
    cells, strides = [], []
    for stride in YOLOX_STRIDES:
        count = side // stride
        rows, columns = np.mgrid[:count, :count]
        cells.append(np.stack([columns, rows], axis=2).reshape(-1, 2))
        strides.append(np.full((count * count, 1), stride))
    grid, stride_of = np.concatenate(cells), np.concatenate(strides)
    centres = (output[:, :2] + grid) * stride_of
    sizes = np.exp(output[:, 2:4].astype(np.float64)) * stride_of
    corners = [centres - sizes / 2, centres + sizes / 2]
    return np.concatenate([*corners, output[:, 4:5] * output[:, 5:]], axis=1)


def decode_yolo(output: np.ndarray) -> np.ndarray:
    """Turn (4 + C) x N of centres and sizes into N x (4 + C): corners and class scores."""
    rows = output.T.astype(np.float64)
    centres, sizes = rows[:, :2], rows[:, 2:4]
    return np.concatenate([centres - sizes / 2, centres + sizes / 2, rows[:, 4:]], axis=1)


def _named(rows: np.ndarray, classes: Sequence[str]) -> list[Box]:
    best = rows[:, 4:].argmax(axis=1)
    scores = rows[np.arange(len(rows)), 4 + best]
    keep = (scores >= LEAST_SCORE) & (rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])
    return [
        _box(classes[best[i]], rows[i, :4].tolist(), float(scores[i])) for i in np.flatnonzero(keep)
    ]


def _box(label: str, corners: Sequence[float], score: float) -> Box:
    left, top, right, bottom = corners
    return Box(label, left, top, right, bottom, score)


def suppressed(boxes: Sequence[Box], overlap: float = SUPPRESSION_OVERLAP) -> tuple[Box, ...]:
    """Keep the surest box of those of one class that overlap, by falling score."""
    waiting = sorted(boxes, key=lambda box: -box.score)
    shared = overlaps(waiting, waiting)
    kept: list[int] = []
    for index, box in enumerate(waiting):
        rivals = (k for k in kept if waiting[k].label == box.label)
        if all(shared[index, k] <= overlap for k in rivals):
            kept.append(index)
    return tuple(waiting[index] for index in kept)


class TransformersDetector:
    """A detector of transformers, from a folder or the hub's cache; a `BoxSource`.

    Args:
        text: Folder or hub name for `AutoModelForObjectDetection`.

    Raises:
        ModelError: If transformers cannot open it.
    """

    def __init__(self, text: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        try:
            self._processor = AutoImageProcessor.from_pretrained(text, use_fast=False)
            self._model = AutoModelForObjectDetection.from_pretrained(text).eval()
        except (OSError, ValueError, KeyError, ImportError, DataError) as error:
            raise ModelError(
                f"{text} is not a detector of transformers",
                got=str(error),
                do="give a folder with config.json, preprocessor_config.json and weights",
            ) from error
        self.name = Path(text).name
        weights = sorted(Path(text).glob("*.safetensors"))
        self.version = hash_file(weights[0])[:16] if weights else text

    def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
        """Return the objects of an image, HW or HWC uint8."""
        import torch

        colours = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        with torch.inference_mode():
            inputs = self._processor(images=colours, return_tensors="pt")
            found = self._processor.post_process_object_detection(
                self._model(**inputs),
                threshold=LEAST_SCORE,
                target_sizes=[image.shape[:2]],
            )[0]
        labels = self._model.config.id2label
        rows = zip(*(found[key].tolist() for key in ("labels", "boxes", "scores")), strict=True)
        return suppressed(
            [
                _box(str(labels.get(label, label)), corners, score)
                for label, corners, score in rows
                if corners[2] > corners[0] and corners[3] > corners[1]
            ]
        )
