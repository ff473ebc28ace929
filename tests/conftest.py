"""Settings of every test: CPU and strict numerics."""

import os

# Before jax is imported anywhere; the processes that tests start inherit both.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
