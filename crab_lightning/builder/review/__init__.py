"""Review of training texts by people: a random sample, a page on this machine, decisions in a database."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.builder.review.app import make_app as make_app
    from crab_lightning.builder.review.apply import apply_verdicts as apply_verdicts
    from crab_lightning.builder.review.sample import draw_sample as draw_sample
    from crab_lightning.builder.review.store import ReviewStore as ReviewStore
    from crab_lightning.builder.review.store import kappas as kappas
    from crab_lightning.builder.review.store import rates as rates

__getattr__, __all__ = lazy_exports(__name__, __file__)
