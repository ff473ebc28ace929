"""The memory of a machine: what reading it takes, more of it than any cache holds."""

from __future__ import annotations

import numpy as np

from scripts.peers.serve import serve

BYTES = 2**28


def main() -> None:
    """Serve readings."""
    numbers = np.zeros(BYTES // 4, np.float32)

    def step() -> int:
        numbers.max()
        return 1

    serve(step, lambda: {"bytes": BYTES})


if __name__ == "__main__":
    main()
