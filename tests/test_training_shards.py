"""Shards: what is put in comes out, from any process, after any accident."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file

from v2ir.training.shards import ShardStore


def tensor(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).half().float()


def test_entries_come_back_from_memory_and_from_disk(tmp_path):
    store = ShardStore(tmp_path, shard_bytes=2000)
    values = {f"key {n}": tensor(n, 4, 5 + n % 3, 7) for n in range(40)}
    for key, value in values.items():
        assert torch.equal(store.put(key, value), value)
    assert all(torch.equal(store.get(key), value) for key, value in values.items())
    store.flush()
    other = ShardStore(tmp_path)
    assert len(other) == 40 and 5 < len(list(tmp_path.iterdir())) < 40
    assert all(torch.equal(other.get(key), value) for key, value in values.items())
    assert other.get("key 40") is None and "key 40" not in other and "key 3" in other


def test_shards_are_plain_safetensors(tmp_path):
    store = ShardStore(tmp_path)
    store.put("a", tensor(0, 3, 4))
    store.flush()
    (shard,) = tmp_path.iterdir()
    assert [tuple(v.shape) for v in load_file(shard).values()] == [(3, 4)]


def test_what_another_process_wrote_is_found(tmp_path):
    store = ShardStore(tmp_path)
    assert store.get("there") is None
    code = (
        "import sys, torch; from pathlib import Path; from v2ir.training.shards import ShardStore;"
        "s = ShardStore(Path(sys.argv[1])); s.put('there', torch.ones(2, 2)); s.flush()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(store.get("there"), torch.ones(2, 2))


def test_a_killed_writer_loses_only_what_it_had_not_written(tmp_path):
    code = (
        "import os, sys, torch; from pathlib import Path\n"
        "from v2ir.training.shards import ShardStore\n"
        "s = ShardStore(Path(sys.argv[1]), shard_bytes=400)\n"
        "for n in range(25): s.put(str(n), torch.full((10, 2), float(n)))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    store = ShardStore(tmp_path)
    found = [n for n in range(25) if str(n) in store]
    assert found == list(range(20))
    assert all(torch.equal(store.get(str(n)), torch.full((10, 2), float(n))) for n in found)


def test_a_torn_shard_is_left_out_and_its_entries_can_be_made_again(tmp_path, caplog):
    store = ShardStore(tmp_path)
    store.put("a", tensor(0, 50))
    store.flush()
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:-10])
    again = ShardStore(tmp_path)
    assert again.get("a") is None
    assert "left out" in caplog.text
    again.put("a", tensor(1, 50))
    again.flush()
    assert torch.equal(ShardStore(tmp_path).get("a"), tensor(1, 50))
