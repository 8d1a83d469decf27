"""Memory plans: which savings make a stage fit a card."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from v2ir.errors import InputError
from v2ir.model import Model
from v2ir.model.pooling import pooled_text
from v2ir.training.fsdp import BLOCKS
from v2ir.training.stage import Stage

GIGABYTE = 1024**3
PICTURED = frozenset({"end_to_end", "one_step"})
TAUGHT = frozenset({"guidance_distillation", "consistency", "one_step"})
"""Objectives that decode pictures, and those that keep a frozen teacher beside the student."""
SPARE = 0.9  # The rest is for fragmentation, workspaces and the device's own use.


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How a stage keeps its numbers.

    Attributes:
        batch_size: Images in one forward pass.
        accumulation: Forward passes for one optimiser step.
        averages_on_cpu: Whether the averaged weights are kept off the device.
        checkpointing: Whether activations are computed again in the backward pass.
        eight_bit: Whether AdamW keeps its moments in 8 bits.
        lora_rank: Rank of adapters on a frozen network; 0 trains the network.
        half_frozen: Whether frozen weights are kept in bfloat16.
        estimate: Estimated peak in bytes.
    """

    batch_size: int
    accumulation: int
    averages_on_cpu: bool = False
    checkpointing: bool = False
    eight_bit: bool = False
    lora_rank: int = 0
    half_frozen: bool = False
    estimate: int = 0

    def describe(self) -> str:
        """Return the plan in one line."""
        parts = [f"batch {self.batch_size} x {self.accumulation}"]
        parts += ["averages on the CPU"] * self.averages_on_cpu
        parts += ["activations recomputed"] * self.checkpointing
        parts += ["8-bit AdamW"] * self.eight_bit
        parts += [f"LoRA of rank {self.lora_rank}"] * bool(self.lora_rank)
        parts += ["frozen weights in bfloat16"] * self.half_frozen
        return f"{', '.join(parts)}: about {self.estimate / GIGABYTE:.1f} GB"

    def applied(self, stage: Stage) -> Stage:
        """Return the stage with the plan's batches and adapters."""
        return stage.model_copy(
            update={
                "batch_size": self.batch_size,
                "accumulation": self.accumulation,
                "lora_rank": self.lora_rank,
            }
        )


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a stage keeps in memory, in numbers that a plan multiplies.

    Attributes:
        trained: Parameters in training.
        adapters: Parameters that adapters of rank 1 would have.
        frozen: Parameters that the loss needs and that do not change.
        activations: Bytes kept for the backward pass, for one image.
        recomputed: The same where activations are computed again.
        processes: Processes that the weights in training are cut over.
        gathered: Parameters that are whole beside a process's share while it computes.
    """

    trained: int
    adapters: int
    frozen: int
    activations: int
    recomputed: int
    processes: int = 1
    gathered: int = 0

    def shared(self, network: nn.Module, processes: int) -> Footprint:
        """Return what each process keeps where the weights in training are cut.

        Args:
            network: The network that is the largest in training.
            processes: Number of processes.
        """
        blocks = [_count(m) for m in network.modules() if type(m).__name__ in BLOCKS]
        beside = _count(network) - sum(blocks)
        # What stands outside the blocks, the block at work and the next one, already on its way.
        gathered = beside + 2 * max(blocks, default=0)
        return dataclasses.replace(self, processes=processes, gathered=gathered)

    def peak(self, plan: MemoryPlan) -> int:
        """Return the estimated peak of a plan in bytes."""
        trained, frozen = self.trained, self.frozen
        if plan.lora_rank:
            frozen, trained = frozen + trained, self.adapters * plan.lora_rank
        # Weight, gradient, two moments, average: float32 but for what the plan saves.
        each = 4 + 4 + (2 if plan.eight_bit else 8) + (0 if plan.averages_on_cpu else 4)
        if self.processes > 1 and not plan.lora_rank:
            # Gathered weights and their gradients come on top of the share.
            held = each * trained // self.processes + (4 + 4) * self.gathered
        else:
            held = each * trained
        held += (2 if plan.half_frozen else 4) * frozen
        image = self.recomputed if plan.checkpointing else self.activations
        return held + plan.batch_size * image


def footprint(model: Model, stage: Stage, autocast: bool) -> Footprint:
    """Measure what a stage keeps, without memory, on networks of shapes alone.

    Args:
        model: The model that the stage starts from.
        stage: The stage.
        autocast: Whether activations are computed in bfloat16.
    """
    parts = {"unet": model.unet, "text_encoder": model.text_encoder}
    trained = sum(_count(part) for name, part in parts.items() if name in stage.trains)
    frozen = sum(_count(part) for name, part in parts.items() if name not in stage.trains)
    if "text_encoder" not in stage.trains:
        frozen -= _count(model.text_encoder)  # its embeddings are cached
    if stage.objective in PICTURED or stage.thermal > 0:
        frozen += _count(model.autoencoder)
    if stage.objective in TAUGHT:
        frozen += _count(model.unet)
    if stage.objective == "consistency" and stage.target_decay > 0:
        # The target network and its average, which are kept like weights in training.
        frozen += 2 * _count(model.unet)
    bare = {
        again: _activations(model, stage.crop // model.card.factor, again) // (1 + autocast)
        for again in (False, True)
    }
    return Footprint(trained, _adapter_count(model.unet), frozen, bare[False], bare[True])


def choose_plan(
    found: Footprint, stage: Stage, budget: int, *, eight_bit: bool = True
) -> MemoryPlan:
    """Return the fastest plan that fits.

    Savings are taken in the order of what they cost: averages off the device, 8-bit
    moments, activations computed again, smaller batches, and last an adapter on frozen
    weights in place of training them all. The number of images in an optimiser step stays.

    Args:
        found: What the stage keeps.
        stage: The stage.
        budget: Memory of the device in bytes.
        eight_bit: Whether 8-bit AdamW can be had.

    Raises:
        InputError: If not even the smallest plan fits.
    """
    steps: list[dict[str, Any]] = [
        {},
        {"averages_on_cpu": True},
        {"averages_on_cpu": True, "eight_bit": True},
        {"averages_on_cpu": True, "eight_bit": True, "checkpointing": True},
        {
            "averages_on_cpu": True, "checkpointing": True, "half_frozen": True,
            "lora_rank": stage.lora_rank or 64,
        },
    ]  # fmt: skip
    if not eight_bit:
        steps = [{**step, "eight_bit": False} for step in steps]
    if stage.lora_rank:
        steps = [{**step, "lora_rank": stage.lora_rank, "half_frozen": True} for step in steps]
    samples = stage.batch_size * stage.accumulation
    enough = max(1, stage.batch_size // 4)
    # A batch too small for the device costs more than the next saving, so it is not given
    # up for a saving less; only the last resort goes down to single images.
    for least in (stage.batch_size, enough, 1):
        for step in steps if least == 1 else steps[:-1]:
            for batch in _batches(stage.batch_size, least):
                plan = MemoryPlan(batch, samples // batch, **step)
                plan = dataclasses.replace(plan, estimate=found.peak(plan))
                if plan.estimate <= SPARE * budget:
                    return plan
    raise InputError(
        f"the stage {stage.name} does not fit {budget / GIGABYTE:.0f} GB",
        got=f"{plan.estimate / GIGABYTE:.1f} GB at the least",
        do="use a smaller crop or a smaller architecture",
    )


def _batches(largest: int, least: int) -> list[int]:
    return [b for b in range(largest, 0, -1) if largest % b == 0 and b >= least]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _adapter_count(unet: Any) -> int:
    from v2ir.training.lora import ATTENTION

    return sum(
        module.in_features + module.out_features
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ATTENTION)
    )


def _activations(model: Model, side: int, checkpointing: bool) -> int:
    """Return the bytes that the backward pass of one image needs, in float32."""
    config = dict(model.unet.config)
    with torch.device("meta"):
        unet = copy.deepcopy(type(model.unet)).from_config(config)
        latent = torch.zeros(1, config["in_channels"], side, side)
        text = torch.zeros(1, model.card.text_length, config["cross_attention_dim"])
    own = {id(parameter) for parameter in unet.parameters()}
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and not isinstance(tensor, nn.Parameter):
            kept[id(tensor)] = tensor
        return tensor

    labels = torch.zeros(1, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(
            latent,
            torch.zeros(1, device="meta"),
            encoder_hidden_states=text,
            class_labels=labels if config.get("num_class_embeds") else None,
            added_cond_kwargs=pooled_text(unet, text),
        )
    total = sum(t.numel() * t.element_size() for t in kept.values())
    if not checkpointing:
        return total
    return total + _largest_block(model, side)


def _largest_block(model: Model, side: int) -> int:
    """Return the bytes of the block that is computed again, the largest of them."""
    blocks = len(model.unet.config.block_out_channels)
    return _activations(model, side, False) // (2 * blocks)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far: of the device, or of the process on a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
