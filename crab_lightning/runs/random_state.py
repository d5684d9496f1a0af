"""The state of every random number generator that a training step may draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

RandomState = dict[str, Any]


def random_states(device: torch.device) -> list[RandomState]:
    """Return the random state of every process, in the order of ranks. Every process must call this.

    The states contain only plain values and tensors, so that a checkpoint can be read without running code.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, second = random.getstate()
    own: RandomState = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, torch.tensor(words), second],
    }
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Set every random number generator of this process to a state of :func:`random_states`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, second = state["python"]
    random.setstate((version, tuple(words.tolist()), second))
