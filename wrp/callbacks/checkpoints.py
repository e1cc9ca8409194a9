"""Checkpoints that are written whole or not at all, and of which nothing is run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from wrp.errors import WrpError, in_short
from wrp.io.writing import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary name beside it, waits for the disk, and renames it.

    Lightning's own moves it from the system's temporary folder: where that is another disk, a full one leaves half of
    a checkpoint behind, and a folder that may not be written to is passed over in silence (2.6.6).
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read one, local or remote, of which nothing is run whatever is asked for: tensors and plain values.

        Raises:
            WrpError: If it holds anything else, or is damaged.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file raises whatever the unpickler met first
            raise WrpError(f"{path} cannot be read as a checkpoint: {in_short(error)}") from error

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it; OSError if that fails. What is no local file is left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first: torch says nothing of use where the disk is full.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())
