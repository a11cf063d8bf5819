"""What the figures were measured on, found out by the program itself."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from benchmarks import nginx

__all__ = ["describe", "durable_directory"]

_LIBRARIES = ("unbroken", "uvicorn", "httptools", "uvloop", "msgspec", "apsw", "httpx2")
_VOLATILE = ("tmpfs", "ramfs")
_SYNCS = 200


def describe(directory: Path) -> dict[str, str]:
    """Facts about the machine, its software, and the disk below a directory."""
    return {
        "CPU": _cpu_model(),
        "Cores": str(len(os.sched_getaffinity(0))),
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Disk": _disk(directory),
        "Write of 4 KiB with fdatasync": f"{_sync_ms(directory):.2f} ms (median of {_SYNCS})",
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "Libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
        "Node.js": _node_version(),
        "nginx": nginx.version(),
        "Load before the run": f"{os.getloadavg()[0]:.2f} (1 minute)",
    }


def durable_directory() -> Path:
    """A directory for temporary files that is on a disk, if there is one."""
    candidates = [Path("/tmp"), Path("/var/tmp"), Path.cwd()]
    return next((path for path in candidates if path.is_dir() and _mount(path)[1] not in _VOLATILE), candidates[0])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _mount(directory: Path) -> tuple[str, str]:
    """Device number and type of the file system that a directory is on."""
    number = directory.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == device:
            return device, kind.split()[0]
    return device, "unknown"


def _disk(directory: Path) -> str:
    device, kind = _mount(directory)
    block = Path(f"/sys/dev/block/{device}").resolve()
    for parent in (block, block.parent):
        rotational = parent / "queue" / "rotational"
        if rotational.is_file():
            spins = rotational.read_text().strip() == "1"
            medium = "reported as rotating" if spins else "reported as not rotating"
            virtual = ", virtual" if parent.name.startswith(("vd", "xvd")) else ""
            return f"{kind} on a block device {medium}{virtual}"
    return f"{kind}, no block device" + (": NOT DURABLE" if kind in _VOLATILE else "")


def _sync_ms(directory: Path) -> float:
    file = directory / "sync-probe"
    took: list[float] = []
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(_SYNCS):
            start = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
        file.unlink()
    return 1000 * statistics.median(took)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(source tree)"


def _node_version() -> str:
    node = shutil.which("node")
    if node is None:
        return "none"
    return subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
