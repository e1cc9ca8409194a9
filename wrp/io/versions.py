"""The versions of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = (
    *("wrp", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch"),
    *("timm", "albumentations", "opencv-python-headless", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the installed version of each package in :data:`PACKAGES`, and that of Python."""
    found = {package: version(package) for package in PACKAGES}
    return found | {"Python": platform.python_version()}
