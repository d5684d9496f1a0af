"""Sharding over processes: strategies, sharded weights, and reading files of weights."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.distributed.strategies import Fsdp1Strategy as Fsdp1Strategy
    from crab_lightning.distributed.strategies import Fsdp2Strategy as Fsdp2Strategy

__getattr__, __all__ = lazy_exports(__name__, __file__)
