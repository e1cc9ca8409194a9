"""What setup.cfg cannot say: the configurations in experiments/ are installed as wrp/recipes."""

from pathlib import Path

from setuptools import find_packages, setup

folders = sorted({path.parent.name for path in Path("experiments").glob("*/*.yaml")} - {"sweeps"})

setup(
    packages=[*find_packages(include=["wrp*"]), *(f"wrp.recipes.{folder}" for folder in folders)],
    package_dir={f"wrp.recipes.{folder}": f"experiments/{folder}" for folder in folders},
)
