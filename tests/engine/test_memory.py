"""How much memory and processor a process may use, read from made-up /proc and /sys/fs/cgroup trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from octavo.engine.errors import ConfigError
from octavo.engine.memory import available_cpus, available_memory, count_blocks, parse_memory

GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   16777216 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups_the_machine_decides(tmp_path: Path) -> None:
    assert available_memory(tree(tmp_path, {})) == 16 * GIB


def test_cgroup_v2_limits_less_what_is_in_use(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/container/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/pod/container/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        },
    )
    assert available_memory(root) == 2 * GIB, "page cache that can go counts as free"


def test_a_parent_cgroup_may_be_the_tighter_one(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/memory.max": f"{GIB}",
            "sys/fs/cgroup/pod/memory.current": "0",
            "sys/fs/cgroup/pod/container/memory.max": "max",
            "sys/fs/cgroup/pod/container/memory.current": "0",
        },
    )
    assert available_memory(root) == GIB


def test_in_a_container_the_mount_is_the_containers_own(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../somewhere/on/the/host\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}",
            "sys/fs/cgroup/memory.current": f"{GIB}",
        },
    )
    assert available_memory(root) == GIB


def test_cgroup_v1(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/pod\n4:memory:/pod\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
            "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": f"{3 * GIB}",
            "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": f"{GIB}",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
        },
    )
    assert available_memory(root) == 2 * GIB
    assert available_cpus(root) == 1


def test_the_cpu_quota_of_cgroup_v2(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"}
    assert available_cpus(tree(tmp_path, files)) == 1


def test_no_quota_leaves_the_affinity(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "max 100000\n"}
    assert available_cpus(tree(tmp_path, files)) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("1024", 1024), ("2k", 2000), ("2Ki", 2048), ("1.5G", 1_500_000_000), ("1GiB", GIB), ("25%", 0.25)],
)
def test_memory_sizes(text: str, meaning: float) -> None:
    assert parse_memory(text) == meaning


@pytest.mark.parametrize("text", ["", "-1", "0", "0%", "101%", "12 parsecs", "1e9"])
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(ConfigError, match="kv_cache_memory"):
        parse_memory(text)


def blocks(setting: str | None, **sizes: int) -> int:
    given = {"free": 10_000, "block_bytes": 10, "max_useful": 10**6, "min_needed": 2, **sizes}
    return count_blocks(setting, device="cpu", **given)


def test_blocks_from_bytes_from_a_share_and_by_default() -> None:
    assert blocks("5000") == 500
    assert blocks("50%") == 500
    assert blocks(None) == 300


def test_by_default_no_more_blocks_than_could_be_used() -> None:
    assert blocks(None, max_useful=42) == 42


@pytest.mark.parametrize("setting", ["10001", "15", "0.1%"])
def test_too_much_and_too_little_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="kv_cache_memory"):
        blocks(setting)
