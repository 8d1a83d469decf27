"""Several processes: alike samples, weights cut over the processes, the files that start them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from PIL import Image
from safetensors.torch import load_file

from conftest import street
from processes import run_processes, write_shares
from training_pieces import ready_to_train
from v2ir.errors import InputError
from v2ir.files import read_json, read_jsonl
from v2ir.model import architecture, build_model, load_model
from v2ir.training import RECIPES, Recipe, TrainSettings, train
from v2ir.training.fsdp import BLOCKS, Sharding, sharding_setting
from v2ir.training.team import Team

pytestmark = pytest.mark.usefixtures("float32_on_processors")

ACCELERATE = Path(__file__).resolve().parents[1] / "docs" / "accelerate"
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
STEPS = 10


def recipe_of(batch_size: int, **changes) -> Recipe:
    """Return ten steps that train UNet and text encoder together."""
    tiny = RECIPES["tiny"]
    small = {"batch_size": batch_size, "steps": STEPS, "checkpoint_every": 10, "sample_every": 10}
    stage = tiny.stages[2].model_copy(update={**small, **changes})
    return tiny.model_copy(update={"stages": (stage,)})


def train_and_tell(recipe: Recipe, settings: TrainSettings, dies_after: int = 0) -> None:
    """Train in this process, writing down every step's loss and what the process holds."""
    loop = importlib.import_module("v2ir.training.loop")
    module = importlib.import_module("v2ir.training.train")
    loop.LOG_EVERY = 1

    def train_stage(*arguments):
        state = loop.train_stage(*arguments)
        rank = os.environ.get("RANK", "0")
        write_shares(settings.run_dir / f"share-{rank}.json", state)
        return state

    module.train_stage = train_stage

    def watch(stage):
        def progress(done, total):
            if dies_after and done == dies_after:
                os._exit(9)

        return progress

    train(recipe, settings, watch)


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory):
    """Return a function that gives the settings of a named run; all runs start alike."""
    root = tmp_path_factory.mktemp("processes")
    for place in range(6):
        for name, picture in zip(("rgb", "ir"), street(place, 64, 56), strict=True):
            (root / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / "data" / name / f"{place}.png")
    data = ready_to_train(root / "data")
    model = build_model(architecture("tiny"), name="x", seed=3, words=["street"], steps=2)
    model.save(root / "start")

    def settings(name, **changes):
        values = {"start_from": str(root / "start"), "cache_dir": root / "cache", **changes}
        return TrainSettings(data, root / name, **values)

    return settings


@pytest.fixture(scope="module")
def one(settings_of):
    """Return the run folder of one process with batches of four."""
    settings = settings_of("one")
    run_processes(1, train_and_tell, recipe_of(4), settings)
    return settings.run_dir


@pytest.fixture(scope="module")
def cut(settings_of):
    """Return the run folder of two processes with batches of two and half of the weights."""
    settings = settings_of("cut")
    run_processes(2, train_and_tell, recipe_of(2), settings, environment=SHARDED)
    return settings.run_dir


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def assert_alike(run: Path, one: Path) -> None:
    """The same losses, and models that differ by what rounding makes of AdamW's first steps."""
    assert len(losses(one)) == STEPS
    assert losses(run) == pytest.approx(losses(one), abs=1e-5)
    models = [load_model(folder / "models" / "pairs") for folder in (run, one)]
    for part in ("unet", "text_encoder"):
        pairs = zip(*(getattr(model, part).parameters() for model in models), strict=True)
        for mine, wanted in pairs:
            torch.testing.assert_close(mine, wanted, atol=1e-3, rtol=1e-2)


def test_two_processes_train_like_one_with_twice_the_batch(settings_of, one):
    settings = settings_of("two")
    run_processes(2, train_and_tell, recipe_of(2, sample_every=0), settings)
    assert_alike(settings.run_dir, one)


def test_two_processes_with_half_of_the_weights_each_train_like_one(cut, one):
    assert_alike(cut, one)


def test_each_process_holds_half_of_everything(cut, one):
    shares = [read_json(cut / f"share-{rank}.json") for rank in (0, 1)]
    whole = read_json(one / "share-0.json")
    for kind in ("weights", "averages", "moments"):
        held = [share[kind] for share in shares]
        assert sum(held) == whole[kind] == whole["all"]
        assert max(held) < 0.52 * whole["all"]


def test_a_sharded_run_keeps_the_checkpoints_of_a_plain_one(cut, one):
    names = sorted(path.name for path in (one / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (cut / "checkpoints").iterdir())
    plain, gathered = (load_file(run / "checkpoints" / names[-1]) for run in (one, cut))
    assert {k: (v.shape, v.dtype) for k, v in plain.items()} == {
        k: (v.shape, v.dtype) for k, v in gathered.items()
    }
    for name, value in plain.items():
        if name.startswith("averages/"):
            torch.testing.assert_close(gathered[name], value, atol=1e-3, rtol=1e-2)


def test_sample_grids_of_a_sharded_run_are_those_of_a_plain_one(cut, one):
    names = sorted(path.name for path in (one / "samples").glob("*.png"))
    assert names == sorted(path.name for path in (cut / "samples").glob("*.png")) != []
    for name in names:
        mine, wanted = (np.asarray(Image.open(run / "samples" / name), int) for run in (cut, one))
        assert np.abs(mine - wanted).mean() < 0.5
        assert np.ptp(wanted) > 100


def test_a_killed_sharded_run_ends_with_the_weights_of_an_undisturbed_one(settings_of, cut):
    settings = settings_of("killed")
    recipe = recipe_of(2, sample_every=0, checkpoint_every=5)
    codes = run_processes(
        2, train_and_tell, recipe, settings, 7, environment=SHARDED, may_fail=True
    )
    assert codes[0] == 9
    assert not (settings.run_dir / "models").exists()
    run_processes(2, train_and_tell, recipe, settings, environment=SHARDED)
    assert len(losses(settings.run_dir)) == 6 + STEPS - 5, "it went on from the checkpoint at 5"
    whole, resumed = (
        load_file(run / "checkpoints" / f"pairs-{STEPS:08d}.safetensors")
        for run in (cut, settings.run_dir)
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_adapters_stay_whole_where_weights_would_be_cut(settings_of):
    settings = settings_of("adapters")
    recipe = recipe_of(2, steps=2, lora_rank=2, trains=("unet",), sample_every=0)
    run_processes(2, train_and_tell, recipe, settings, environment=SHARDED)
    shares = [read_json(settings.run_dir / f"share-{rank}.json") for rank in (0, 1)]
    assert shares[0]["weights"] == shares[1]["weights"] == shares[0]["all"] > 0
    load_model(settings.run_dir / "models" / "pairs")


def test_the_setting_is_read_from_accelerates_environment(monkeypatch):
    assert sharding_setting() is None
    for name, value in SHARDED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert sharding_setting() == Sharding(BLOCKS, reshard=True, recompute=False)
    loading = os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"].lower()
    assert loading == "false", "or transformers would leave the weights empty"
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    assert sharding_setting() == Sharding((), reshard=False, recompute=True)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "ResnetBlock2D,Attention")
    setting = sharding_setting()
    assert setting is not None and setting.blocks == ("ResnetBlock2D", "Attention")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: 1"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "SIZE_BASED_WRAP"),
        ("FSDP_IGNORED_MODULES", "mid_block", "fsdp_ignored_modules"),
    ],
)
def test_what_is_not_done_of_the_setting_is_refused(monkeypatch, name, value, told):
    for key, given in {**SHARDED, name: value}.items():
        monkeypatch.setenv(key, given)
    with pytest.raises(InputError, match=told):
        sharding_setting()


def launched_environment(path: Path) -> dict[str, str]:
    """Return what `accelerate launch --config_file PATH` would start processes with."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_multi_gpu_env

    parser = launch.launch_command_parser()
    known = vars(parser.parse_args(["train.py"]))
    settings = load_config_from_file(str(path)).fsdp_config
    assert all(key in known for key in settings), "a key that accelerate would not pass on"
    arguments, _, _ = launch._validate_launch_command(
        parser.parse_args(["--config_file", str(path), "train.py"])
    )
    assert arguments.multi_gpu or arguments.use_fsdp, "or one process would be started alone"
    return prepare_multi_gpu_env(arguments)


def test_the_shipped_file_for_whole_weights_starts_plain_processes(monkeypatch):
    config = load_config_from_file(str(ACCELERATE / "ddp.yaml"))
    assert (config.num_processes, config.mixed_precision) == (4, "bf16")
    for key, value in launched_environment(ACCELERATE / "ddp.yaml").items():
        monkeypatch.setenv(key, value)
    assert sharding_setting() is None


def test_the_shipped_file_for_cut_weights_gives_the_setting_that_is_meant(monkeypatch):
    config = load_config_from_file(str(ACCELERATE / "fsdp.yaml"))
    assert (config.num_processes, config.mixed_precision) == (8, "bf16")
    for key, value in launched_environment(ACCELERATE / "fsdp.yaml").items():
        monkeypatch.setenv(key, value)
    assert sharding_setting() == Sharding(BLOCKS, reshard=True, recompute=False)


@pytest.mark.parametrize("wrong", ["fsdp_blocks: x", "shard: true"])
def test_an_unknown_key_in_a_file_is_found(tmp_path, wrong):
    text = (ACCELERATE / "fsdp.yaml").read_text()
    path = tmp_path / "fsdp.yaml"
    path.write_text(text.replace("  fsdp_version: 2", f"  fsdp_version: 2\n  {wrong}"))
    with pytest.raises(AssertionError, match="not pass on"):
        launched_environment(path)


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    """Accelerate's files for GPUs start two on a machine without one, each for itself."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    class Alone:
        distributed_type = DistributedType.NO
        mixed_precision = "no"
        num_processes = 1

    monkeypatch.setattr("accelerate.Accelerator", Alone)
    with pytest.raises(InputError, match="beside each other"):
        Team()
