"""Messages of other libraries on which a user cannot act, and that are left out for this reason."""

from __future__ import annotations

import logging
import re
import threading
import warnings

# Messages of Lightning at every start on which a user cannot act, each with the reason.
_NOISE = re.compile(
    "|".join(
        [
            r".*litlogger",  # an advertisement
            r"TPU available",
            r"`isinstance\(treespec",  # Lightning's own deprecation, at every batch transfer
            r"Found \d+ module\(s\) in eval mode",  # the frozen base is meant to be in it
            r"The number of training batches .* is smaller than the logging interval",
            r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # values are already synchronised
            r"Trainer already configured with model summary",
            r"Total length of `BatchLoader` across ranks is zero",  # the mixture table says so
            r"Loading `train_dataloader` to estimate",
        ]
    )
)


def quieten() -> None:
    """Leave out messages that Lightning prints at every start and that nobody can act on here."""
    warnings.filterwarnings("ignore", message=_NOISE.pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: _NOISE.match(record.getMessage()) is None)
    threading.excepthook = _tell_of_thread


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, except of TensorBoard's on a full disk: the next write raises it again."""
    if type(ended.thread).__name__ != "_AsyncWriterThread" or not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)
