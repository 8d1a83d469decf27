"""The machines that work together, as Ray knows them."""

from __future__ import annotations

import dataclasses
import logging
import os
from types import ModuleType
from typing import Any

from v2ir.errors import InputError, MissingExtraError

GIBIBYTE = 1024**3
_STORE_BYTES = 200 * 1024**2  # Only names and reasons travel.
_LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and where on its machines networks run.

    Attributes:
        address: `auto` for the cluster that this machine belongs to, `local` for the
            processors of this machine alone, or HOST:PORT of the head.
        device: `auto`, `cpu` or `cuda`; `auto` is `cuda` where a machine has one.
    """

    address: str
    device: str = "auto"

    def connect(self) -> ModuleType:
        """Join the cluster, once a process, and return the module `ray`.

        Raises:
            MissingExtraError: If Ray is not installed.
            InputError: If there is no cluster at the address.
        """
        # Nobody is told that the program runs, and Ray's own warnings are not the user's.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MissingExtraError(
                "--cluster needs Ray Data", got=str(error), do="pip install 'v2ir[cluster]'"
            ) from error
        if not ray.is_initialized():
            self._join(ray)
        return ray

    def _join(self, ray: ModuleType) -> None:
        mine: dict[str, Any] = {}
        if self.address == _LOCAL:
            mine = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        try:
            ray.init(self.address, log_to_driver=False, logging_level=logging.WARNING, **mine)
        except Exception as error:  # Ray raises the bare class where a start takes too long.
            raise InputError(
                f"no cluster at {self.address}",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                do="start one by `ray start --head` on one machine and "
                "`ray start --address HOST:6379` on the others, or give `local`",
            ) from error

    def found_device(self) -> str:
        """Return where the networks of workers run; joins the cluster if it has to look.

        Raises:
            InputError: If a certain card is asked for, or cards where there are none.
        """
        if self.device not in {"auto", "cpu", "cuda"}:
            raise InputError(
                "a worker on a cluster uses the one card that it is given",
                got=f"--device {self.device}",
                do="give cpu, cuda or auto",
            )
        if self.device == "cpu":
            return "cpu"
        cards = int(self.connect().cluster_resources().get("GPU", 0))
        if self.device == "cuda" and not cards:
            raise InputError("no machine of the cluster has a card", do="give --device cpu")
        return "cuda" if cards else "cpu"

    def needs(self, memory: int) -> dict[str, float]:
        """Return what a worker takes of a machine, in Ray's words."""
        needs: dict[str, float] = {"num_cpus": 1, "memory": memory}
        return {**needs, "num_gpus": 1} if self.found_device() == "cuda" else needs

    def places(self, memory: int) -> int:
        """Return how many workers of `memory` bytes the machines have room for together.

        Raises:
            InputError: If not even one has a place.
        """
        words = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        needs = {words[key]: need for key, need in self.needs(memory).items() if need}
        machines = [node["Resources"] for node in self.connect().nodes() if node["Alive"]]
        rooms = (min(has.get(key, 0) // need for key, need in needs.items()) for has in machines)
        places = int(sum(rooms))
        if places < 1:
            raise InputError(
                "no machine of the cluster has room for a worker",
                got=f"{len(machines)} machines",
                do=f"add one with {' and '.join(f'{need:g} {key}' for key, need in needs.items())}",
            )
        return places
