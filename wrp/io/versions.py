"""The versions of what results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = (
    *("wrp", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch"),
    *("timm", "albumentations", "opencv-python-headless", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Versions by package, and Python's; without packages that are not installed."""
    found = {package: version(package) for package in PACKAGES}
    return found | {"Python": platform.python_version()}
