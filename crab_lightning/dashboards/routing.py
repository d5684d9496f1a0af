"""Mean routes of each dataset, recorded while the validation loss is computed."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crab_lightning.adapters import LoRALinear, record_routes
from crab_lightning.adapters.names import depth_of
from crab_lightning.structures import Batch


class RouteMeans:
    """Mean routes over the tokens that are not padding, for every layer of the language model.

    Only the first samples of each dataset are recorded. Nothing waits for the accelerator until
    :meth:`result`. Adapters in the encoders are left out, because they read no text.

    Args:
        samples: Number of samples of each dataset to record.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._seen: Counter[str] = Counter()
        self._sums: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._open = ExitStack()
        self._found: dict[str, list[Tensor]] = {}

    def start(self, model: nn.Module, batch: Batch) -> None:
        """Start recording for a batch, if its datasets need more samples and the model has routers."""
        wanted = any(self._seen[sample.dataset] < self.samples for sample in batch.samples)
        routed = (isinstance(m, LoRALinear) and m.routed and m.heads > 1 for m in model.modules())
        if not wanted or not any(routed):
            return
        mask = batch.inputs["attention_mask"].float()
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)

        def per_sample(name: str, routes: Tensor) -> Tensor:
            if routes.shape[:-1] != share.shape:
                return routes.new_empty(0)  # the tokens of an encoder are not those of the text
            return torch.einsum("btn,bt->bn", routes.float(), share.to(routes.device))

        self._found = self._open.enter_context(record_routes(model, reduce=per_sample))

    def stop(self, batch: Batch) -> None:
        """Stop recording, and add the routes of the batch."""
        self._open.close()
        found = {name: calls[0] for name, calls in self._found.items() if calls and calls[0].numel()}
        self._found = {}
        if not found:
            return
        self._names = list(found)
        routes = torch.stack(list(found.values()), 1)  # (B, modules, n)
        for row, (sample, repeated) in enumerate(zip(batch.samples, batch.repeated, strict=True)):
            if repeated or self._seen[sample.dataset] >= self.samples:
                continue
            self._seen[sample.dataset] += 1
            before = self._sums.get(sample.dataset)
            self._sums[sample.dataset] = routes[row] if before is None else before + routes[row]

    def close(self) -> None:
        """Stop recording, for example after an exception."""
        self._open.close()

    def result(self) -> dict[str, NDArray[np.float64]]:
        """Return dataset -> mean routes ``(layers, n)``, averaged over the modules of each layer."""
        keys = [depth_of(name) for name in self._names]
        order = sorted(set(keys))
        result = {}
        for dataset, total in self._sums.items():
            routes = (total / self._seen[dataset]).double().cpu().numpy()  # (modules, n)
            result[dataset] = np.stack([routes[[k == key for k in keys]].mean(0) for key in order])
        return result
