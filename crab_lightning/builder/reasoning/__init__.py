"""Let a multimodal model that knows the answer write reasoning texts, and check them with a parser."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.builder.reasoning.estimates import Costs as Costs
    from crab_lightning.builder.reasoning.estimates import Estimate as Estimate
    from crab_lightning.builder.reasoning.estimates import estimate as estimate
    from crab_lightning.builder.reasoning.local import LocalWriter as LocalWriter
    from crab_lightning.builder.reasoning.questions import Settings as Settings
    from crab_lightning.builder.reasoning.run import Report as Report
    from crab_lightning.builder.reasoning.run import reason as reason
    from crab_lightning.builder.reasoning.writers import EndpointWriter as EndpointWriter
    from crab_lightning.builder.reasoning.writers import NoWriter as NoWriter
    from crab_lightning.builder.reasoning.writers import Writer as Writer
    from crab_lightning.builder.reasoning.writers import WriterError as WriterError
    from crab_lightning.builder.reasoning.writers import writer_settings as writer_settings

__getattr__, __all__ = lazy_exports(__name__, __file__)
