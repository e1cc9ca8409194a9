"""A Trainer that stops when it is told to."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from wrp.io.stopping import check_stop


class StopWhenTold(pl.Callback):
    """Look at every batch whether a signal has come that nobody has heard, see :mod:`wrp.io.stopping`."""

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
