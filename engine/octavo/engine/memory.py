"""How much memory and processor this process may use, and how many KV blocks that makes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from octavo.engine.errors import ConfigError, ModelError

_UNITS = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip

_UNLIMITED = 2**60
"""cgroup v1 says "no limit" with a number of about 2**63."""

DEFAULT_SHARE = {"cpu": 0.3, "cuda": 0.9}
"""Of the memory that is free once the weights are loaded; a CPU shares its with the rest of the machine."""


def parse_memory(text: str) -> int | float:
    """`"512Mi"` → bytes as int, `"40%"` → a share of the free memory as float. ConfigError names the rule."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kmgt]i?|)b?\s*", text.lower())
    if match:
        number, unit = float(match[1]), match[2]
        if unit == "%" and 0 < number <= 100:
            return number / 100
        if unit != "%" and number > 0:
            return int(number * _UNITS[unit])
    raise ConfigError(
        f"kv_cache_memory: must be bytes, with K, M, G, Ki, Mi or Gi if you like, "
        f"or a share from 0% to 100% of the free memory (got {text!r})"
    )


def count_blocks(
    setting: str | None, *, free: int, block_bytes: int, max_useful: int, min_needed: int, device: str
) -> int:
    """KV blocks for a pool: as many as `setting` or the default share of `free` bytes allows.

    max_useful: blocks beyond which the default does not go. min_needed: fewer than this serve nothing.
    """
    default = DEFAULT_SHARE["cuda" if device.startswith("cuda") else "cpu"]
    wanted = default if setting is None else parse_memory(setting)
    size = int(free * wanted) if isinstance(wanted, float) else wanted
    if size > free:
        raise ConfigError(
            f"kv_cache_memory: must fit in the {free / 2**20:.0f} MiB that are free here (got {setting!r})"
        )
    blocks = size // block_bytes
    if setting is None:
        blocks = min(blocks, max_useful)
    if blocks < min_needed:
        raise ConfigError(
            f"kv_cache_memory: {size / 2**20:.1f} MiB make {blocks} blocks of {block_bytes / 2**10:.0f} KiB; "
            f"at least {min_needed} are needed"
        )
    return blocks


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process could still take: the least that the machine and each enclosing cgroup have left."""
    return min([_machine_available(root), *_cgroup_available(root)])


def available_cpus(root: Path = Path("/")) -> int:
    """Processors to compute on: those this process may run on, or fewer if its cgroup's quota says so."""
    quotas = [len(os.sched_getaffinity(0)), *_cgroup_cpus(root)]
    return max(1, int(min(quotas)))


def _machine_available(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_available(root: Path) -> list[int]:
    left: list[int] = []
    for group in _cgroups(root, "memory"):
        for limit_file, usage_file, cache_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _read_int(group / limit_file), _read_int(group / usage_file)
            if limit is not None and usage is not None and limit < _UNLIMITED:
                # Page cache that can go counts as free, as the kernel's own MemAvailable has it.
                reclaimable = _stat(group / "memory.stat", cache_key)
                left.append(max(limit - usage + reclaimable, 0))
    return left


def _cgroup_cpus(root: Path) -> list[float]:
    quotas: list[float] = []
    for group in _cgroups(root, "cpu"):
        words = _read(group / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _read_int(group / "cpu.cfs_quota_us"), _read_int(group / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return quotas


def _cgroups(root: Path, controller: str) -> list[Path]:
    """This process's cgroup and all around it, of version 2 and of version 1's hierarchy of `controller`.

    In a container the paths of /proc/self/cgroup may be the host's; the mount's root is then the container's
    own.
    """
    groups: list[Path] = []
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        unified = mounts / "unified"
        base = mounts / controller if controllers else (unified if unified.is_dir() else mounts)
        inner = base / path.lstrip("/")
        groups += [place for place in (inner, *inner.parents) if place == base or base in place.parents]
    return groups


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_int(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _stat(path: Path, key: str) -> int:
    return next((int(value) for name, value in map(str.split, _read(path).splitlines()) if name == key), 0)


def check_weights_fit(model: str, needed: int, free: int, dtype: str, device: str) -> None:
    """needed, free: bytes. Raises ModelError where loading would end by the kernel's out-of-memory killer,
    without a word."""
    if needed > free:
        raise ModelError(
            f"{model}: its weights take {needed / 2**30:.1f} GiB in {dtype}, "
            f"and {free / 2**30:.1f} GiB are free on {device}"
        )
