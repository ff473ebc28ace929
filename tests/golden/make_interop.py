"""Write what `transformers` says of the tiny models: python -m tests.golden.make_interop, with the extra `parity`."""

import tempfile
from pathlib import Path

import numpy as np

from tasks.interop.parity import load_transformers, reference
from tasks.interop.tiny import TINY, tokens, write_tiny

GOLDEN = Path(__file__).with_name("interop.npz")


def main():
    found = {"transformers": np.array(load_transformers().__version__)}
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(TINY):
            write_tiny(name, Path(folder) / str(i))
            logits_LV, text_N = (leaf[0] for leaf in reference(Path(folder) / str(i), tokens(1)))
            found |= {f"{name}: logits": logits_LV, f"{name}: text": text_N.astype(np.int32)}
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
