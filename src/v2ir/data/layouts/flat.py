"""A folder of images of one kind, without `rgb/` and `ir/`."""

from __future__ import annotations

from pathlib import Path

from v2ir.data.layouts.listing import Kind, Listing, by_name, no_images


def infrared(source: Path) -> Listing:
    """Take every image below a folder as an infrared image without a partner.

    Raises:
        DataError: If there is no image.
    """
    return _all_of(source, "ir")


def visible(source: Path) -> Listing:
    """Take every image below a folder as a visible image without a partner.

    Raises:
        DataError: If there is no image.
    """
    return _all_of(source, "rgb")


def _all_of(source: Path, kind: Kind) -> Listing:
    found, failures = by_name(source)
    if not found:
        raise no_images(source, "images")
    return Listing(files={kind: found}, failures=tuple(failures))
