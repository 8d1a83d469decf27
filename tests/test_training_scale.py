"""Training at full size: adapters, memory plans, several processes, parts out of memory."""

from __future__ import annotations

import copy
import errno
import importlib

import pytest
import torch
from typer.testing import CliRunner

from training_pieces import ready_to_train
from v2ir.annotation import make_captioner, make_segmenter
from v2ir.cli import app
from v2ir.cli.train import read_size
from v2ir.errors import InputError, OutputError
from v2ir.files import read_jsonl
from v2ir.model import architecture, build_model, load_model
from v2ir.model.networks import build_unet
from v2ir.training import RECIPES, Stage, TrainSettings, train
from v2ir.training.lora import attach_lora, merge_lora, widen_weights
from v2ir.training.memory import GIGABYTE, MemoryPlan, choose_plan, footprint
from v2ir.training.recipes import ablations

pytestmark = pytest.mark.usefixtures("float32_on_processors")


@pytest.fixture
def data(make_pairs):
    return ready_to_train(make_pairs(6))


def unet_inputs(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(2, unet.config.in_channels, 8, 8, generator=generator),
        "timestep": torch.tensor([10, 500]),
        "encoder_hidden_states": torch.randn(
            2, 24, unet.config.cross_attention_dim, generator=generator
        ),
    }


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return build_unet(architecture("tiny").unet).eval()


def trained_adapter(unet):
    adapter = attach_lora(unet, rank=4, alpha=8.0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return adapter


def test_a_fresh_adapter_changes_nothing_and_a_merged_one_everything(unet):
    inputs = unet_inputs(unet)
    names = set(unet.state_dict())
    before = unet(**inputs).sample
    adapter = attach_lora(unet, rank=4, alpha=8.0)
    assert torch.equal(unet(**inputs).sample, before)
    assert not any(p.requires_grad for n, p in unet.named_parameters() if "lora" not in n)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    adapted = unet(**inputs).sample
    assert (adapted - before).abs().max() > 1e-3
    merged = merge_lora(unet)
    torch.testing.assert_close(merged(**inputs).sample, adapted, rtol=1e-4, atol=1e-5)
    assert set(merged.state_dict()) == names


def test_an_adapter_on_rounded_weights_is_merged_into_the_original_ones(unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    original = type(unet).from_pretrained(tmp_path / "unet")
    unet.to(torch.bfloat16)
    adapter = trained_adapter(unet)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    copy_of_original = copy.deepcopy(original)
    widen_weights(unet, original)
    merged = merge_lora(unet)
    reference = attach_like(copy_of_original, adapter)
    inputs = unet_inputs(merged)
    wanted = reference(**inputs).sample
    torch.testing.assert_close(merged(**inputs).sample, wanted, rtol=1e-3, atol=1e-4)
    rounded = reference.to(torch.bfloat16).float()(**inputs).sample
    assert (rounded - wanted).abs().max() > 2e-3, "rounding would have shown"


def attach_like(network, adapter):
    twin = attach_lora(network, rank=4, alpha=8.0)
    twin.load_state_dict(adapter.state_dict())
    return network


def lora_recipe(steps=4, **changes):
    tiny = RECIPES["tiny"]
    last = tiny.stages[-1].model_copy(
        update={"lora_rank": 4, "trains": ("unet",), "steps": steps, **changes}
    )
    first = tiny.stages[0].model_copy(update={"steps": 2})
    return tiny.model_copy(update={"stages": (first, last)})


def test_a_stage_with_an_adapter_ends_with_a_plain_model(data, tmp_path):
    recipe = lora_recipe(learning_rate=1e-2)
    folder = train(recipe, TrainSettings(data, tmp_path / "run"))
    before, after = load_model(tmp_path / "run" / "models" / "autoencoder"), load_model(folder)
    changed = {
        name
        for name, value in after.unet.state_dict().items()
        if not torch.equal(value, before.unet.state_dict()[name])
    }
    assert changed
    assert all(".to_" in name for name in changed)
    files = list((tmp_path / "run" / "checkpoints").glob("style-*.safetensors"))
    weights = after.unet.num_parameters() * 4
    assert all(file.stat().st_size < weights for file in files), "adapters alone are kept"


def test_parts_that_rest_are_out_of_memory_and_come_back(data, tmp_path, monkeypatch):
    module = importlib.import_module("v2ir.training.train")
    seen = []
    train_stage = module.train_stage

    def spy(objective, *arguments):
        seen.append((objective.model.autoencoder, objective.model.text_encoder))
        return train_stage(objective, *arguments)

    monkeypatch.setattr(module, "train_stage", spy)
    folder = train(lora_recipe(sample_every=2), TrainSettings(data, tmp_path / "run"))
    assert seen[0][0] is not None
    assert seen[1] == (None, None)
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert list((tmp_path / "run" / "samples").glob("style-*.png"))
    load_model(folder)


def full_size():
    """Return the full-size model as shapes without memory."""
    from types import SimpleNamespace

    with torch.device("meta"):
        unet = build_unet(architecture("sd15").unet)
    small = torch.nn.Linear(1, 1)
    card = SimpleNamespace(text_length=77, factor=8)
    return SimpleNamespace(unet=unet, card=card, text_encoder=small, autoencoder=small)


@pytest.fixture(scope="module")
def found():
    """Return what the full-size model keeps, counted once."""
    return footprint(full_size(), Stage(name="s", steps=1), autocast=True)


@pytest.mark.parametrize("budget", [12, 24, 48, 80])
def test_a_plan_fits_its_budget_and_keeps_the_samples_of_a_step(found, budget):
    stage = Stage(name="s", steps=1, batch_size=32, accumulation=8)
    plan = choose_plan(found, stage, budget * GIGABYTE)
    assert plan.estimate <= budget * GIGABYTE
    assert plan.batch_size * plan.accumulation == 256
    assert f"{plan.estimate / GIGABYTE:.1f} GB" in plan.describe()


def test_more_memory_needs_fewer_savings(found):
    stage = Stage(name="s", steps=1, batch_size=32, accumulation=8)
    plans = [choose_plan(found, stage, size * GIGABYTE) for size in (8, 12, 24, 48, 80)]
    savings = [p.averages_on_cpu + p.eight_bit + p.checkpointing + bool(p.lora_rank) for p in plans]
    assert savings == sorted(savings, reverse=True)
    assert plans[0].lora_rank and plans[0].half_frozen
    assert plans[-1] == MemoryPlan(32, 8, estimate=plans[-1].estimate)
    with pytest.raises(InputError, match="does not fit 1 GB"):
        choose_plan(found, stage, GIGABYTE)


def test_recomputed_activations_are_fewer(found):
    assert found.trained == 859_544_004
    assert 0 < found.recomputed < found.activations / 3


def test_a_plan_is_carried_out(data, tmp_path, caplog):
    """With too little memory for everything the stage trains an adapter, batch by batch."""
    tiny = RECIPES["tiny"]
    stages = (
        tiny.stages[0].model_copy(update={"steps": 2}),
        tiny.stages[-1].model_copy(update={"steps": 2, "batch_size": 4, "trains": ("unet",)}),
    )
    model = build_model(architecture("tiny"), name="x")
    found = footprint(model, stages[1], autocast=False)
    smallest = MemoryPlan(
        1, 4, averages_on_cpu=True, checkpointing=True, half_frozen=True, lora_rank=2
    )
    stages = (stages[0], stages[1].model_copy(update={"lora_rank": 2}))
    budget = int(found.peak(smallest) / 0.9) + 1000
    recipe = tiny.model_copy(update={"stages": stages})
    with caplog.at_level("INFO", logger="v2ir.training"):
        folder = train(recipe, TrainSettings(data, tmp_path / "run", memory=budget))
    assert "batch 1 x 4" in caplog.text and "bfloat16" in caplog.text
    assert "measured peak" in caplog.text
    before, after = load_model(tmp_path / "run" / "models" / "autoencoder"), load_model(folder)
    for name, value in after.unet.state_dict().items():
        if ".to_" not in name:
            assert torch.equal(value, before.unet.state_dict()[name]), name


def test_sizes_are_read():
    assert read_size("24GB") == read_size("24") == 24 * GIGABYTE
    assert read_size("0.5 gb") == GIGABYTE // 2
    for wrong in ("much", "-3GB", "0GB", "24MB"):
        with pytest.raises(InputError, match="size in gigabytes"):
            read_size(wrong)


def test_every_recipe_names_annotators_that_there_are():
    named = [recipe.card for recipe in RECIPES.values()]
    for name in {card["captioner"] for card in named if card.get("captioner")}:
        assert make_captioner(name).name
    for name in {card["segmenter"] for card in named if card.get("segmenter")}:
        assert make_segmenter(name).name


def test_ablations_are_the_rows_of_table_3():
    rows = ablations(RECIPES["diffv2ir"])
    stages = {name: [stage.phase for stage in recipe.stages] for name, recipe in rows.items()}
    assert stages["diffv2ir-256-phases-2"] == [2]
    assert stages["diffv2ir-256-phases-13"] == [1, 3]
    assert stages["diffv2ir-256-without-map"] == [1, 2, 3]
    without = rows["diffv2ir-256-without-understanding"].stages[1]
    assert without.conditions == ("visible",)
    assert [s.phase for s in rows["diffv2ir-256-without-caption"].stages] == [1, 2, 3]
    assert [s.name for s in ablations(RECIPES["mini"])["mini-phases-12"].stages] == [
        "autoencoder", "infrared", "pairs",
    ]  # fmt: skip


def test_several_recipes_in_one_command_get_a_run_folder_each(data, tmp_path):
    tiny = RECIPES["tiny"]
    names = []
    for number in (1, 2):
        stages = (tiny.stages[0].model_copy(update={"steps": number}),)
        path = tmp_path / f"row-{number}.json"
        path.write_text(tiny.model_copy(update={"stages": stages}).model_dump_json())
        names.append(str(path))
    done = CliRunner().invoke(app, ["train", ",".join(names), str(data), str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    for number in (1, 2):
        rows = list(read_jsonl(tmp_path / "runs" / f"row-{number}" / "log.jsonl"))
        assert rows[-1]["step"] == number


def test_a_setting_of_another_way_to_cut_weights_is_refused(monkeypatch):
    from accelerate.utils import DistributedType

    from v2ir.training.team import Team

    class Sharded:
        distributed_type = DistributedType.DEEPSPEED

    monkeypatch.setattr("accelerate.Accelerator", Sharded)
    with pytest.raises(InputError, match=r"FSDP alone.*DEEPSPEED"):
        Team()


def test_weights_that_are_shared_need_less_memory_in_each_process(found):
    model, plan = full_size(), MemoryPlan(1, 1)
    peaks = [found.shared(model.unet, n).peak(plan) for n in (2, 4, 8)]
    assert found.peak(plan) > peaks[0] > peaks[1] > peaks[2]
    # Weights, gradients, two moments and averages, of which a share is gone at each step.
    assert peaks[0] - peaks[1] == pytest.approx(20 * found.trained / 4, rel=1e-6)
    gathered = found.shared(model.unet, 2).gathered
    assert 0 < gathered < found.trained / 4, "blocks are whole one by one"
    adapter = MemoryPlan(1, 1, lora_rank=4)
    assert found.shared(model.unet, 8).peak(adapter) == found.peak(adapter)


def test_gradients_are_averaged_whatever_is_missing():
    from types import SimpleNamespace

    from v2ir.training.team import Team

    team = Team()
    sent = []

    def reduce(flat, reduction):
        assert reduction == "mean"
        sent.append(flat)
        return flat / 2

    team.accelerator = SimpleNamespace(reduce=reduce, num_processes=2)
    one, two = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    one.grad, half.grad = torch.full((2, 2), 4.0), torch.full((2,), 2.0, dtype=torch.bfloat16)
    team.mean_gradients([one, two, half, frozen])
    assert torch.equal(one.grad, torch.full((2, 2), 2.0))
    assert torch.equal(two.grad, torch.zeros(3))
    assert half.grad.dtype == torch.bfloat16 and half.grad.tolist() == [1.0, 1.0]
    assert frozen.grad is None and len(sent) == 2


def small_kl():
    """Return the architecture of Stable Diffusion 1.5, made small: KL autoencoder, epsilon."""
    full = architecture("sd15")
    blocks = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    autoencoder = {
        **full.autoencoder, "down_block_types": blocks[0], "up_block_types": blocks[1],
        "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4,
    }  # fmt: skip
    unet = {**architecture("tiny").unet, "in_channels": 12, "out_channels": 4, "sample_size": 8}
    text = architecture("tiny").text_encoder
    return full.model_copy(update={"autoencoder": autoencoder, "unet": unet, "text_encoder": text})


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_model_of_the_published_kind_trains_without_its_autoencoder(data, tmp_path, lora_rank):
    """Latents are scaled by the autoencoder's factor while it is out of memory."""
    build_model(small_kl(), name="x", seed=3).save(tmp_path / "start")
    stage = RECIPES["diffv2ir"].stages[1].model_copy(
        update={
            "steps": 2, "batch_size": 2, "accumulation": 1, "crop": 32, "sample_every": 0,
            "lora_rank": lora_rank,
        }
    )  # fmt: skip
    recipe = RECIPES["diffv2ir"].model_copy(update={"stages": (stage,)})
    settings = TrainSettings(data, tmp_path / "run", start_from=str(tmp_path / "start"))
    made = load_model(train(recipe, settings))
    before = load_model(tmp_path / "start")
    assert made.autoencoder.config.scaling_factor == 0.18215
    assert before.card.captioner is None
    assert (made.card.captioner, made.card.segmenter) == ("blip-base", "sam-huge")
    for one, two in zip(
        before.autoencoder.parameters(), made.autoencoder.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    changed = [
        name
        for name, value in made.unet.state_dict().items()
        if not torch.equal(value, before.unet.state_dict()[name])
    ]
    assert changed and (not lora_rank or all(".to_" in name for name in changed))


def test_moments_in_8_bits_survive_a_checkpoint(tmp_path):
    optim = pytest.importorskip("bitsandbytes.optim")
    from v2ir.training.average import start_averages
    from v2ir.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

    def state(seed):
        torch.manual_seed(seed)
        module = torch.nn.Linear(128, 128)
        return TrainingState(
            {"m": module}, start_averages({"m": module}), optim.AdamW8bit(module.parameters())
        )

    def step(given, seed):
        x = torch.randn(4, 128, generator=torch.Generator().manual_seed(seed))
        given.modules["m"](x).square().mean().backward()
        given.optimizer.step()
        given.optimizer.zero_grad()

    kept, other = state(0), state(1)
    step(kept, 0)
    load_checkpoint(save_checkpoint(tmp_path, "s", kept, {}), other, {})
    for given in (kept, other):
        step(given, 1)
    for one, two in zip(
        kept.modules["m"].parameters(), other.modules["m"].parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_a_full_disk_leaves_the_previous_checkpoint(data, tmp_path, monkeypatch):
    from v2ir.training import checkpoint

    write = checkpoint._write_tensors

    def full(stream, tensors, metadata):
        if metadata["step"] == "4":
            stream.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(stream, tensors, metadata)

    stage = RECIPES["tiny"].stages[0].model_copy(update={"steps": 6, "checkpoint_every": 2})
    recipe = RECIPES["tiny"].model_copy(update={"stages": (stage,)})
    settings = TrainSettings(data, tmp_path / "run")
    monkeypatch.setattr(checkpoint, "_write_tensors", full)
    with pytest.raises(OutputError, match="No space left"):
        train(recipe, settings)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["autoencoder-00000002.safetensors"]
    monkeypatch.setattr(checkpoint, "_write_tensors", write)
    resumed = load_model(train(recipe, settings))
    whole = load_model(train(recipe, TrainSettings(data, tmp_path / "whole")))
    for one, two in zip(
        resumed.autoencoder.parameters(), whole.autoencoder.parameters(), strict=True
    ):
        assert torch.equal(one, two)
