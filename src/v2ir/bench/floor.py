"""The floor: the network's arithmetic at the machine's own matrix rate, and what lies above.

The multiply-adds of one evaluation are counted, the machine's rate is measured with large
matrices, and a profile of the network says where the rest of the time goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v2ir.bench.journal import Cell, Section
from v2ir.bench.machine import Meter
from v2ir.bench.timing import Task
from v2ir.bench.workbench import Workbench
from v2ir.model import Model
from v2ir.model.pooling import pooled_text
from v2ir.records import Progress

MATRIX_SIDE = 1536
ACCELERATOR_SIDE = 8192
GIGA = 1e9

# Operators by kind, by the start of their names without `aten::`. A convolution is a
# matrix product over shifted pixels; the others read and write memory and hardly compute.
KINDS: dict[str, tuple[str, ...]] = {
    "convolution": (
        "mkldnn_conv",
        "convolution",
        "_conv",
        "conv2d",
        "cudnn_conv",
        "thnn_conv",
        "_slow_conv",
    ),
    "matrix product": ("addmm", "mm", "bmm", "linear", "baddbmm", "matmul"),
    "attention": (
        "_scaled_dot_product",
        "scaled_dot_product",
        "_flash_attention",
        "_efficient_attention",
    ),
    "normalisation": ("native_group_norm", "native_layer_norm", "group_norm", "batch_norm"),
    "activation": ("silu", "gelu", "sigmoid", "relu", "softmax", "_softmax"),
    "copies": ("copy", "cat", "clone", "contiguous", "_to_copy", "upsample", "_reshape"),
    "sums and products": ("add", "mul", "div", "sub", "fill"),
}


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of one evaluation of a network.

    Attributes:
        products: Multiply-adds by kind of operator.
    """

    products: dict[str, int]

    @property
    def total(self) -> int:
        """All multiply-adds."""
        return sum(self.products.values())


def network_inputs(model: Model, rows: int, size: int) -> dict[str, Any]:
    """Return random inputs of the denoising network for `rows` images of `size` px."""
    config, device, dtype = model.unet.config, model.device, model.dtype
    side = size // model.card.factor
    generator = torch.Generator().manual_seed(0)
    text = (rows, model.card.text_length, model.text_encoder.config.hidden_size)
    labels = torch.zeros(rows, dtype=torch.long, device=device)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs: dict[str, Any] = {
        "sample": draw(rows, config.in_channels, side, side),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": draw(*text),
        "class_labels": labels if config.num_class_embeds else None,
    }
    added = pooled_text(model.unet, inputs["encoder_hidden_states"])
    return inputs if added is None else {**inputs, "added_cond_kwargs": added}


@torch.no_grad()
def count_arithmetic(model: Model, size: int) -> Arithmetic:
    """Count the multiply-adds of evaluating the network on one image of `size` px."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    products = _count(model, size)
    if not products["attention"]:
        # The counter does not know the CPU's fused attention; written out, it is matrix
        # products.
        with sdpa_kernel(SDPBackend.MATH):
            written_out = _count(model, size)
        products["attention"] = written_out["matrix product"] - products["matrix product"]
    return Arithmetic({kind: number for kind, number in products.items() if number})


def _count(model: Model, size: int) -> Counter[str]:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        model.unet(**network_inputs(model, 1, size))
    products: Counter[str] = Counter()
    for operator, operations in counter.get_flop_counts()["Global"].items():
        products[kind_of(str(operator))] += operations // 2
    return products


def kind_of(operator: str) -> str:
    """Return the kind of an operator, such as `aten::addmm` or `aten.convolution`."""
    name = operator.replace("aten::", "").replace("aten.", "")
    found = [
        (len(start), kind)
        for kind, starts in KINDS.items()
        for start in starts
        if name.startswith(start)
    ]
    return max(found)[1] if found else "other"


def matrix_rate(meter: Meter, dtype: torch.dtype, side: int, repeats: int = 5) -> float:
    """Return the multiply-adds a second of multiplying square matrices, the best of some."""
    one, other = (torch.randn(side, side, device=meter.device).to(dtype) for _ in range(2))
    torch.mm(one, other)
    return max(
        side**3 / max(meter(lambda: torch.mm(one, other)).wall, 1e-9) for _ in range(repeats)
    )


@torch.no_grad()
def profile_network(model: Model, rows: int, size: int) -> dict[str, float]:
    """Return the seconds of one evaluation by kind of operator, under the profiler."""
    from torch.profiler import ProfilerActivity, profile

    on_accelerator = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_accelerator else [])]
    inputs = network_inputs(model, rows, size)
    model.unet(**inputs)
    with _without_native_messages(), profile(activities=activities) as profiler:
        model.unet(**inputs)
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        if on_accelerator and not event.key.startswith("aten::"):
            continue  # the kernels themselves, which their operators name already
        spent = event.self_device_time_total if on_accelerator else event.self_cpu_time_total
        seconds[kind_of(event.key)] += spent / 1e6
    return dict(seconds)


@contextlib.contextmanager
def _without_native_messages() -> Iterator[None]:
    """Hide what native code writes to the error output: the profiler tells of every start."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def measure_floor(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Compare the time of the network's evaluations with its arithmetic at the matrix rate."""
    # In the number format that a speed takes on this device.
    model, size = bench.translator(speed=bench.settings.speeds[-1]).model, bench.settings.size
    arithmetic = count_arithmetic(model, size)
    batches = bench.settings.batch_sizes or (1, 4)
    with torch.no_grad():
        tasks = [_evaluation(model, rows, size) for rows in batches]
        side = MATRIX_SIDE if model.device.type == "cpu" else ACCELERATOR_SIDE
        rate = Task(
            "floor/matrix product",
            lambda: {"rate": matrix_rate(bench.meter, model.dtype, side)},
        )
        bench.compare([rate, *tasks], progress)
    rates = [sample.parts["rate"] for sample in bench.journal.samples(rate.name) if sample.parts]
    shares = _shares(bench, tasks, batches, arithmetic, max(rates))
    profile = bench.once(
        f"floor/profile of {batches[-1]}",
        lambda: profile_network(model, batches[-1], size),
        batches[-1],
    )
    return (shares, _profile(profile.parts or {}, batches[-1], arithmetic, max(rates)))


def _evaluation(model: Model, rows: int, size: int) -> Task:
    inputs = network_inputs(model, rows, size)

    def run() -> None:
        model.unet(**inputs)

    return Task(f"floor/{rows} rows", run, rows, warm_up=run)


def _shares(
    bench: Workbench,
    tasks: list[Task],
    batches: tuple[int, ...],
    arithmetic: Arithmetic,
    rate: float,
) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for task, number in zip(tasks, batches, strict=True):
        samples = bench.journal.samples(task.name)
        best = min(sample.wall / sample.images for sample in samples)
        reached = arithmetic.total / best
        rows.append((number, best, reached / GIGA, rate / GIGA, 100 * reached / rate))
    settings = bench.settings
    return Section(
        "floor",
        f"{settings.model}, {settings.size} px, {settings.device}: "
        f"{arithmetic.total / GIGA:.3g} billion multiply-adds an evaluation",
        ("rows together", "s a row", "reached G/s", "matrix rate G/s", "share %"),
        tuple(rows),
        (
            "G/s: billion multiply-adds a second. The matrix rate is the best of products of "
            "large square matrices in the same number format, taken between the evaluations; the "
            "evaluations are the best of their rounds, too.",
        ),
    )


def _profile(seconds: dict[str, float], rows: int, arithmetic: Arithmetic, rate: float) -> Section:
    total = sum(seconds.values()) or 1.0
    cells: list[tuple[Cell, ...]] = []
    for kind, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        products = rows * arithmetic.products.get(kind, 0.0)
        reached = products / spent if spent > 0 and products else None
        cells.append(
            (
                kind,
                100 * spent / total,
                100 * products / (rows * arithmetic.total),
                reached / GIGA if reached else None,
                100 * reached / rate if reached else None,
            )
        )
    return Section(
        "floor by operator",
        f"one evaluation of {rows} rows, under the profiler",
        ("operators", "time %", "multiply-adds %", "reached G/s", "share of matrix rate %"),
        tuple(cells),
        ("What has no multiply-adds waits for memory: it is the distance to the floor.",),
    )
