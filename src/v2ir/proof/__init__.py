"""What generated images are worth: train a network on them and test it on real ones.

`INGREDIENTS` are the kinds of images that a row of the table may be trained on; a row is
one of them or several joined by `+`. Every row sees the same scenes with the same labels,
starts from the same weights, takes the same number of steps and is tested on the same
real infrared images. What is learned follows from the labels; the kinds are the rows of
`v2ir.proof.tasks.TASKS`.
"""

from __future__ import annotations

INGREDIENTS: dict[str, str] = {
    "real": "true infrared images of the training scenes",
    "grey": "luma of their photographs",
    "inverted": "negative of that luma",
    "generated": "infrared images that a model made from the photographs",
}
DEFAULT_ROWS = ("real", "grey", "generated", "real+generated")
