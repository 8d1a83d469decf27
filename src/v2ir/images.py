"""The only file that knows bit depth, colour modes and value ranges.

In memory a visible image is HWC uint8 RGB, an infrared image is HW float32 in [0, 1], a
map is HW uint8. Networks see NCHW float32 in [-1, 1].
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from v2ir.errors import ImageReadError, OutputError
from v2ir.files import write_bytes

if TYPE_CHECKING:
    import torch

_HIGH_DEPTH_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})


def _open(path: Path, least: int | None = None) -> Image.Image:
    """Decode a whole file and turn it upright by its EXIF orientation.

    With `least` a JPEG may come out in grey at a half, a quarter or an eighth of its size,
    but with no side below `least`; that costs a fraction of the full decoding.
    """
    try:
        with warnings.catch_warnings():
            # A huge panorama is a legitimate input here, not an attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if least is not None:
                    image.draft("L", (least, least))
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise ImageReadError(f"{path} does not exist", do="check the path") from error
    except UnidentifiedImageError as error:
        raise ImageReadError(
            f"{path} is not an image",
            got=f"{path.stat().st_size} bytes in no known image format",
            do="remove it or replace it by the real image",
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{path} cannot be decoded", got=str(error), do="copy or export the file again"
        ) from error


def _stretched(values: np.ndarray) -> np.ndarray:
    """Map an array of more than 8 bits to float32 in [0, 1] by its own range."""
    finite = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    return (finite - low) / (high - low) if high > low else np.zeros_like(finite)


def read_visible(path: Path) -> np.ndarray:
    """Read any image as HWC uint8 RGB in 0..255, upright.

    Transparent pixels are laid over black, CMYK and palettes are converted, and images
    of more than 8 bits are stretched by their own range.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    image = _open(path)
    if image.mode in _HIGH_DEPTH_MODES:
        grey = (_stretched(np.asarray(image)) * 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.asarray(image.convert("RGB"))


def read_infrared(path: Path) -> np.ndarray:
    """Read an infrared image as HW float32 in [0, 1], upright.

    8-bit values are divided by 255. Values of more than 8 bits are stretched by the
    image's own range, because 14-bit cameras use only a part of 16 bits.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    pixels = read_infrared_levels(path)
    return pixels.astype(np.float32) / 255.0 if pixels.dtype == np.uint8 else pixels


def read_infrared_levels(path: Path) -> np.ndarray:
    """Read an infrared image as `read_infrared` does, but 8-bit values as they are stored.

    Returns:
        HW uint8, or HW float32 in [0, 1] where the file has more than 8 bits.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    image = _open(path)
    if image.mode in _HIGH_DEPTH_MODES:
        return _stretched(np.asarray(image))
    return np.asarray(image.convert("L"))


def read_map(path: Path) -> np.ndarray:
    """Read a segmentation map or mask as HW uint8 in 0..255, or HWC RGB if it has colours.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    image = _open(path)
    if image.mode in {"RGB", "RGBA", "P"}:
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[..., :1]).any():
            return colours
    return np.asarray(image.convert("L"))


def read_thumbnail(path: Path, width: int, height: int | None = None) -> np.ndarray:
    """Read the luminance of an image at a small size as HW float32 in [0, 1], upright.

    Reads the file to its end, so a cut-off file is noticed, but decodes no more detail
    than the size needs. Without a height the aspect is kept.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    image = _open(path, least=max(width, height or width))
    high = max(1, round(width * image.height / image.width)) if height is None else height
    if image.mode in _HIGH_DEPTH_MODES:
        return resize(_stretched(np.asarray(image)), width, high, "area")
    grey = image.convert("L").resize((width, high), _FILTERS["area"])
    return np.asarray(grey, dtype=np.float32) / 255.0


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels of the upright image, reading only the header.

    Raises:
        ImageReadError: If the file is missing or is not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}
                return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"{path} is not an image", got=str(error), do="remove it") from error


def encode_png(pixels: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """Return HW or HWC uint8 pixels as the bytes of a PNG file.

    `text` becomes textual chunks before the pixels, which `read_png_text` gives back.
    """
    buffer, chunks = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_png_text(path: Path) -> dict[str, str]:
    """Return the textual chunks before the pixels; the pixels are not decoded.

    A file that is no PNG, or no image at all, has none.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return {key: value for key, value in image.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {}


def to_uint8(infrared: np.ndarray) -> np.ndarray:
    """Round float [0, 1] to uint8 0..255; values outside are clipped."""
    return (np.clip(infrared, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def write_infrared(path: Path, infrared: np.ndarray) -> None:
    """Write HW float [0, 1] as a one-channel 8-bit PNG, atomically.

    Raises:
        OutputError: If `path` is not a .png or the disk refuses.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"cannot write {path}", got=path.suffix, do="give a name ending in .png")
    write_bytes(path, encode_png(to_uint8(infrared)))


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write HW or HWC uint8 pixels as PNG, atomically."""
    write_bytes(path, encode_png(pixels))


Resampling = Literal["nearest", "linear", "area"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "linear": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


def resize(
    pixels: np.ndarray, width: int, height: int, resampling: Resampling = "linear"
) -> np.ndarray:
    """Resize HW or HWC uint8, or HW float32, to (height, width) with antialiasing.

    `linear` is bicubic with antialiasing; `nearest` keeps the set of values (for maps).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), _FILTERS[resampling]))


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Turn HWC or HW uint8 (0..255) or HW float (0..1) into CHW float32 in [-1, 1].

    One-channel images are repeated to three channels, as the autoencoder expects.
    """
    import torch  # the command line reads images long before it needs a network

    values = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        values = values / 255.0
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))) * 2.0 - 1.0


def from_tensor(images: torch.Tensor) -> np.ndarray:
    """Turn CHW or NCHW in [-1, 1] into HW or NHW float32 in [0, 1], averaging channels."""
    grey = images.detach().float().mean(dim=-3)
    return ((grey + 1.0) / 2.0).clamp(0.0, 1.0).cpu().numpy()
