"""For all tests: one thread, since two processes with two threads each on two cores are far slower, and properties
whose examples are the same in every run."""

from __future__ import annotations

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=[]
)
hypothesis.settings.load_profile("fixed")
