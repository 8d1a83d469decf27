"""Several processes that train together, without the seconds of a launcher.

They are forked from the process of the tests, which has imported what training needs.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LIMIT = 240.0  # seconds; far more than any test needs, so that a deadlock ends in a failure


def run_processes(
    number: int,
    target: Callable[..., None],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    may_fail: bool = False,
) -> list[int]:
    """Run `target(*arguments)` in several processes as a launcher would; return exit codes.

    When one process dies the others are ended, as `torchrun` does.

    Raises:
        AssertionError: With its traceback, if a process raised an exception, which it may not.
    """
    import torch

    # Threads that autograd has for an accelerator do not survive a fork.
    context = multiprocessing.get_context(
        "forkserver" if torch.accelerator.is_available() else "fork"
    )
    errors = context.SimpleQueue()
    port = _free_port()
    started = [
        context.Process(
            target=_run,
            args=(target, arguments, errors, _variables(rank, number, port, environment or {})),
        )
        for rank in range(number)
    ]
    for process in started:
        process.start()
    codes = _wait(started)
    if not errors.empty() and not may_fail:
        raise AssertionError(errors.get())
    return codes


def _variables(rank: int, number: int, port: int, more: Mapping[str, str]) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    launched = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if number > 1 else {}
    return {**{k: str(v) for k, v in launched.items()}, "ACCELERATE_USE_CPU": "true", **more}


def _run(target: Callable[..., None], arguments: Any, errors: Any, variables: dict) -> None:
    os.environ.update(variables)
    import torch
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # what the forked process was
    torch.set_num_threads(1)
    try:
        target(*arguments)
    except BaseException:
        errors.put(traceback.format_exc())
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _wait(started: list) -> list[int]:
    until = time.monotonic() + LIMIT
    while any(process.exitcode is None for process in started):
        failed = any(process.exitcode for process in started)
        if failed or time.monotonic() > until:
            time.sleep(0.5)
            for process in started:
                process.kill()
        time.sleep(0.02)
    return [process.exitcode for process in started]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_shares(path: Path, state: Any) -> None:
    """Write how many numbers of the weights, averages and moments this process holds."""
    from v2ir.files import write_json
    from v2ir.training.sharding import own_rows

    weights = [p for module in state.modules.values() for p in module.parameters()]
    averages = [value for part in state.averages.values() for value in part.values()]
    moments = [moment["exp_avg"] for moment in state.optimizer.state.values()]
    kinds = {"weights": weights, "averages": averages, "moments": moments}
    held = {kind: sum(own_rows(t).numel() for t in found) for kind, found in kinds.items()}
    write_json(path, {**held, "all": sum(weight.numel() for weight in weights)})
