"""Stop the Trainer when a signal arrives."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from wrp.io.stopping import check_stop


class StopWhenTold(pl.Callback):
    """Check at every batch for a signal whose exception was lost, see :mod:`wrp.io.stopping`.

    Example:
        >>> StopWhenTold().on_train_batch_start()  # without a signal, nothing happens
    """

    def on_train_batch_start(self, *_: Any) -> None:
        """Raise what a signal asks for."""
        check_stop()

    def on_validation_batch_start(self, *_: Any) -> None:
        """Raise what a signal asks for."""
        check_stop()

    def on_test_batch_start(self, *_: Any) -> None:
        """Raise what a signal asks for."""
        check_stop()

    def on_predict_batch_start(self, *_: Any) -> None:
        """Raise what a signal asks for."""
        check_stop()
