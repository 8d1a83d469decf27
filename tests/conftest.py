"""What every test shares: no network, one thread a worker, and small realistic images."""

from __future__ import annotations

import os

# Set before anything imports torch or the hub client, in every xdist worker too: threads
# of several workers on few cores slow each other down many times over, and a stray
# download must fail at once instead of hanging.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DIFFUSERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    NO_COLOR="1",
    TERM="dumb",
    COLUMNS="120",
)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]

# No deadline: a shared machine may be slow at any moment, and no test measures time.
# In CI the examples are the same every time, so that a red run is the change's fault.
settings.register_profile(
    "v2ir",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("v2ir")


@pytest.fixture(scope="module")
def float32_on_processors():
    """Train in float32 on processors with bfloat16 units too: the same numbers everywhere.

    For tests whose runs are of this process or forked from it; another one is not reached.
    """
    from v2ir.training import team

    patch, pays = pytest.MonkeyPatch(), team.bfloat16_pays
    patch.setattr(team, "bfloat16_pays", lambda device: device.type == "cuda" and pays(device))
    yield
    patch.undo()


def street(seed: int, width: int = 96, height: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Draw a small street: (visible HxWx3 uint8, infrared HxW uint8) with equal edges.

    Sky above, textured ground below, two buildings and one warm figure, so that edges,
    flat areas and textures are all there.
    """
    rng = np.random.default_rng(seed)
    rows = np.linspace(0.0, 1.0, height)[:, None, None]
    visible = 90 + 110 * (1 - rows) * np.array([0.7, 0.85, 1.0]) * np.ones((height, width, 1))
    infrared = 40 + 60 * rows[..., 0] * np.ones((height, width))
    horizon = int(height * rng.uniform(0.4, 0.6))
    visible[horizon:] += rng.normal(0, 12, (height - horizon, width, 1)) - 40
    infrared[horizon:] += rng.normal(0, 6, (height - horizon, width)) + 30
    for _ in range(2):
        left, top = int(rng.integers(0, width - 24)), int(rng.integers(4, horizon))
        house = np.s_[top : horizon + 6, left : left + int(rng.integers(12, 24))]
        visible[house] = rng.integers(40, 200, 3)
        infrared[house] = rng.integers(90, 170)
    figure = np.s_[horizon : horizon + 14, (at := int(rng.integers(4, width - 10))) : at + 5]
    visible[figure] = rng.integers(10, 80, 3)
    infrared[figure] = 245
    return visible.clip(0, 255).astype(np.uint8), infrared.clip(0, 255).astype(np.uint8)


@pytest.fixture
def make_pairs(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `number` street pairs and gives their data set folder."""

    def make(
        number: int = 4, folder: Path | None = None, width: int = 96, height: int = 80
    ) -> Path:
        data = folder or tmp_path / "data"
        for name in ("rgb", "ir"):
            (data / name).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            visible, infrared = street(index, width, height)
            Image.fromarray(visible).save(data / "rgb" / f"street_{index:02d}.png")
            Image.fromarray(infrared).save(data / "ir" / f"street_{index:02d}.png")
        return data

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real pairs that `V2IR_DATA` names, or skip the test."""
    folder = Path(os.environ.get("V2IR_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "pairs" / "rgb").is_dir():
        pytest.skip(f"no real pairs: {folder} has no pairs/rgb (set V2IR_DATA)")
    return folder
