"""The versions of what results depend on."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("wrp", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch"),
    *("timm", "albumentations", "opencv-python-headless", "numpy", "pillow"),
)


# Results differ with it in the last digits.
OPTIONAL = "numba"


def versions() -> dict[str, str]:
    """Versions by package, and Python's; without packages that are not installed."""
    found = {package: version(package) for package in PACKAGES}
    with contextlib.suppress(PackageNotFoundError):
        found[OPTIONAL] = version(OPTIONAL)
    return found | {"Python": platform.python_version()}
