"""How much memory this program took."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Largest resident memory of this program so far, in bytes.

    Linux says it in `/proc`. Elsewhere `getrusage` does, which a child process begins with its parent's peak.
    """
    if _STATUS.exists():
        high = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(high.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
