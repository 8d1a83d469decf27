"""The named recipes, and recipes from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from v2ir.errors import InputError, UnknownNameError
from v2ir.files import read_json
from v2ir.training.stage import Recipe, Stage

INFRARED_PROMPT = "an infrared image"
_STREET = ("llvip", "metu_vistir", "msrs", "roadscene")
_ANNOTATORS = {"captioner": "statistics", "segmenter": "regions"}


def _autoencoder(**changes: Any) -> Stage:
    settings: dict[str, Any] = {
        "name": "autoencoder",
        "objective": "reconstruction",
        "scenes": "infrared",
        "conditions": (),
        "trains": ("autoencoder",),
        "balance": 0.5,
        "crop": 128,
        "scales": (1.0, 3.0),
        "batch_size": 8,
        "warmup_steps": 50,
        "average_decay": 0.995,
        "learning_rate": 1e-3,
        "drop": 0.0,
        "drop_style": 0.0,
    }
    return Stage(**{**settings, **changes})


def _mini() -> Recipe:
    small: dict[str, Any] = {
        "trains": ("unet", "text_encoder"), "batch_size": 16, "average_decay": 0.999,
        "balance": 0.5, "scales": (1.0, 1.5), "learning_rate": 6e-4, "warmup_steps": 20,
        "sample_every": 500,
    }  # fmt: skip
    # Most samples are noisy ones, because where heat is gets decided there; and batches are
    # small, because more updates for the same work learn more.
    street = {
        **small, "phase": 3, "styles": _STREET, "alignment": ("strict", "near"),
        "noise_shift": 10.0, "batch_size": 4, "learning_rate": 5e-4,
    }  # fmt: skip
    return Recipe(
        name="mini",
        architecture="mini",
        stages=(
            _autoencoder(steps=1600, decay_steps=1600),
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(),
                prompt=INFRARED_PROMPT, steps=250, variants=2, drop=0.0, **small,
            ),
            Stage(name="pairs", phase=2, steps=600, decay_steps=1700, **small),
            Stage(
                name="style", **{**street, "batch_size": 16, "noise_shift": 4.0},
                steps=400, decay_steps=1400,
            ),
            Stage(
                name="first_step",
                **{**street, "batch_size": 16, "noise_shift": 20.0, "learning_rate": 8e-4},
                steps=400, decay_steps=1100,
            ),
            Stage(name="finish", steps=2900, decay_steps=2900, **street),
        ),
        card={
            **_ANNOTATORS,
            "resolution": 384, "multiple": 32, "solver": "mean", "steps": 1,
            "prompt_without_caption": "",
            "guidance": {"text": 1.0, "visible": 1.0, "segmentation": 1.0},
        },
    )  # fmt: skip


def _diffv2ir(crop: int) -> Recipe:
    """Return the three phases of DiffV2IR, to start from Stable Diffusion 1.5 widened to 12.

    Source: DiffV2IR, Sec. 3.3 and its released code: crop 256 out of 256 to 288 px, AdamW
    with 1e-4, batch 32 x 8, averaged weights 0.9999, about 100 epochs of 66,023 pairs in
    phase 2. The rank of phase 1's adapters and its length are not stated; both are ours.
    """
    published: dict[str, Any] = {
        "batch_size": 32, "accumulation": 8, "learning_rate": 1e-4, "average_decay": 0.9999,
        "crop": crop, "scales": (1.0, 1.125), "sample_every": 500, "checkpoint_every": 500,
    }  # fmt: skip
    return Recipe(
        name=f"diffv2ir-{crop}",
        architecture="sd15",
        stages=(
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                drop=0.0, drop_style=0.0, steps=2_500, lora_rank=64, **published,
            ),
            Stage(name="pairs", phase=2, steps=25_000, **published),
            Stage(name="style", phase=3, steps=2_500, **published),
        ),
        card={
            "captioner": "blip-base", "segmenter": "sam-vit-h", "resolution": 512, "multiple": 64,
        },
    )  # fmt: skip


def _camera_lora() -> Recipe:
    """Return the light way to fit a camera: an adapter, from about 100 pairs."""
    return Recipe(
        name="camera-lora",
        architecture="sd15",
        stages=(
            Stage(
                name="style", phase=3, steps=1_000, learning_rate=1e-4, warmup_steps=50,
                decay_steps=1_000, batch_size=8, lora_rank=32, average_decay=0.99, sample_every=250,
            ),
        ),
    )  # fmt: skip


def ablations(recipe: Recipe) -> dict[str, Recipe]:
    """Return the rows of DiffV2IR's Table 3 for a recipe of three phases.

    First every combination of phases that has pairs to learn from, then the conditions:
    without the map, without the caption, and with neither.
    """
    rows = {}
    for kept in ((2,), (3,), (1, 2), (1, 3), (2, 3)):
        stages = tuple(stage for stage in recipe.stages if stage.phase in (0, *kept))
        name = f"{recipe.name}-phases-{''.join(map(str, kept))}"
        rows[name] = recipe.model_copy(update={"name": name, "stages": stages})
    for label, gone_conditions in (
        ("map", {"segmentation"}),
        ("caption", {"text"}),
        ("understanding", {"segmentation", "text"}),
    ):
        name = f"{recipe.name}-without-{label}"
        stages = tuple(
            stage.model_copy(
                update={
                    "conditions": tuple(c for c in stage.conditions if c not in gone_conditions)
                }
            )
            for stage in recipe.stages
        )
        rows[name] = recipe.model_copy(update={"name": name, "stages": stages})
    return rows


def _camera() -> Recipe:
    """Return phase 3 alone: the look of one camera from a small set, `--from` a model."""
    return Recipe(
        name="camera",
        architecture="mini",
        stages=(
            Stage(
                name="style", phase=3, trains=("unet", "text_encoder"), steps=400,
                learning_rate=2e-4, warmup_steps=20, decay_steps=400, noise_shift=4.0,
                average_decay=0.99,
                scales=(1.0, 1.5), sample_every=100, checkpoint_every=50,
            ),
        ),
    )  # fmt: skip


def _tiny() -> Recipe:
    """Return a recipe of all stages that trains in seconds, for tests and first tries."""
    small: dict[str, Any] = {
        "steps": 6, "batch_size": 2, "crop": 32, "variants": 2,
        "trains": ("unet", "text_encoder"), "average_decay": 0.9, "checkpoint_every": 2,
    }  # fmt: skip
    return Recipe(
        name="tiny",
        architecture="tiny",
        stages=(
            _autoencoder(steps=6, batch_size=2, crop=32, checkpoint_every=2),
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                drop=0.0, **small,
            ),
            Stage(name="pairs", phase=2, sample_every=3, **small),
            Stage(name="style", phase=3, **small),
        ),
        card={
            **_ANNOTATORS, "resolution": 64, "multiple": 16, "solver": "dpmpp", "steps": 2,
            "guidance": {"text": 1.5, "visible": 1.5, "segmentation": 1.5},
        },
    )  # fmt: skip


def _infrared_stages(steps: tuple[int, int], **changes: Any) -> tuple[Stage, Stage]:
    """Return the two stages of an infrared autoencoder: without and with a discriminator.

    Source: TxT2IR's released code: L1, 50 x (1 - SSIM), KL 1e-6, the discriminator from step
    50,001 on with the adaptive weight times 0.5.
    """
    settings: dict[str, Any] = {
        "objective": "infrared_autoencoder", "structure": 50.0, "kl": 1e-6, **changes,
    }  # fmt: skip
    return (
        _autoencoder(**{**settings, "steps": steps[0]}),
        _autoencoder(
            **{**settings, "name": "adversary", "steps": steps[1]}, adversarial=0.5,
        ),
    )  # fmt: skip


_PUBLISHED_INFRARED: dict[str, Any] = {
    "crop": 512, "scales": (1.0, 1.0), "batch_size": 4, "learning_rate": 4.5e-6,
    "warmup_steps": 0, "balance": 0.0, "average_decay": 0.0, "checkpoint_every": 1_000,
}  # fmt: skip
# The small one is pulled less by SSIM, so that few steps get the brightness right as well.
_SMALL_INFRARED: dict[str, Any] = {"structure": 1.0, "learning_rate": 5e-4, "checkpoint_every": 100}
_TEXT_CARD: dict[str, Any] = {
    "conditions": ["text"], "prompt_template": "{caption}",
    "prompt_without_caption": INFRARED_PROMPT,
}  # fmt: skip


def _text(**changes: Any) -> Stage:
    """Return the stage that learns infrared scenes from captions.

    The text is dropped in four of the seven subsets, so in one sample of ten: that is what
    guidance needs, and what the released code lacks.
    """
    settings: dict[str, Any] = {
        "name": "text", "scenes": "infrared", "conditions": ("text",),
        "trains": ("unet", "text_encoder"), "drop": 0.025,
    }  # fmt: skip
    return Stage(**{**settings, **changes})


def _txt2ir() -> Recipe:
    """Return TxT2IR without its thermal-mask loss, which is an option of the stage `text`.

    Source: TxT2IR's released code: 512 px, batch 2, 5e-5, no averaged weights, DDIM with 200
    steps and no guidance. Numbers of steps, and the batch of the autoencoder, are ours.
    """
    return Recipe(
        name="txt2ir",
        architecture="txt2ir",
        stages=(
            *_infrared_stages((50_000, 50_000), **_PUBLISHED_INFRARED),
            _text(
                steps=100_000, batch_size=2, learning_rate=5e-5, crop=512, scales=(1.0, 1.0),
                average_decay=0.0, sample_every=2_000, checkpoint_every=1_000,
            ),
        ),
        card={
            **_TEXT_CARD, "resolution": 512, "multiple": 128, "solver": "ddim", "steps": 200,
            "guidance": {"text": 1.0},
        },
    )  # fmt: skip


def _txt2ir_mini() -> Recipe:
    return Recipe(
        name="txt2ir-mini",
        architecture="txt2ir-mini",
        stages=(
            *_infrared_stages((1_600, 400), **_SMALL_INFRARED),
            _text(
                steps=4_000, batch_size=16, learning_rate=6e-4, warmup_steps=20,
                decay_steps=4_000, balance=0.5, scales=(1.0, 1.5), average_decay=0.999,
                noise_shift=4.0, sample_every=500,
            ),
        ),
        card={
            **_TEXT_CARD, "resolution": 256, "multiple": 32, "solver": "ddim", "steps": 25,
            "guidance": {"text": 3.0},
        },
    )  # fmt: skip


def _ir_autoencoder(name: str, architecture: str, multiple: int) -> Recipe:
    """Return the infrared autoencoder alone, as published; `txt2ir` begins with it."""
    return Recipe(
        name=name,
        architecture=architecture,
        stages=_infrared_stages((50_000, 50_000), **_PUBLISHED_INFRARED),
        card={**_TEXT_CARD, "resolution": 512, "multiple": multiple},
    )


_TEXT_RECIPES = (
    _txt2ir(),
    _txt2ir_mini(),
    _ir_autoencoder("ir-autoencoder", "txt2ir", 128),
    _ir_autoencoder("ir-autoencoder-f8", "txt2ir-f8", 64),
)
_ALONE = (_mini(), _camera(), _camera_lora(), _tiny(), _diffv2ir(256), _diffv2ir(512))
RECIPES: dict[str, Recipe] = {
    **{recipe.name: recipe for recipe in (*_ALONE, *_TEXT_RECIPES)},
    "diffv2ir": _diffv2ir(256),
    **ablations(_diffv2ir(256)),
    **ablations(_mini()),
    **ablations(_tiny()),
}
"""`diffv2ir` is `diffv2ir-256`, as published; rows of the paper's Table 3 by their names."""


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a recipe by name or from a JSON file.

    A file holds a whole recipe, or `{"from": NAME, ...}` to change fields of a named one;
    under `stages` it may then give, by stage name, the fields to change.

    Raises:
        UnknownNameError: If there is no recipe of that name.
        InputError: If the file's values are not valid.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        if str(name_or_path) not in RECIPES:
            raise UnknownNameError.of("recipe", str(name_or_path), RECIPES)
        return RECIPES[str(name_or_path)]
    values = read_json(path)
    try:
        if isinstance(values, dict) and "from" in values:
            return _changed(load_recipe(values["from"]), values)
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path} is not a valid recipe", got=str(error)) from error


def _changed(base: Recipe, values: dict[str, Any]) -> Recipe:
    changes = {key: value for key, value in values.items() if key not in {"from", "stages"}}
    merged = {**base.model_dump(), **changes}
    per_stage = values.get("stages", {})
    if isinstance(per_stage, list):
        merged["stages"] = per_stage
        return Recipe.model_validate(merged)
    known = {stage.name for stage in base.stages}
    for name in per_stage:
        if name not in known:
            raise UnknownNameError.of(f"stage of the recipe {base.name}", name, known)
    merged["stages"] = [
        {**stage.model_dump(), **per_stage.get(stage.name, {})} for stage in base.stages
    ]
    return Recipe.model_validate(merged)
