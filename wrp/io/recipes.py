"""Recipes: the configurations of ``experiments/``, which are installed with the package."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from wrp.errors import WrpError

# Where the configurations lie in an installed package, see setup.py, and in a checkout.
_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "experiments")

# Their files say what for and where they were run in the first lines: `# What for.`, `# Status: where.`
_STATUS = "Status: "

# A folder of experiments/ whose files are for `wrp search`.
_SWEEPS = "sweeps"


@dataclass(frozen=True)
class Recipe:
    """A configuration that comes with the package.

    Attributes:
        name: ``<data set>/<step>``.
        path: The YAML file.
        text: Its content.
        purpose: What it is for, one sentence.
        status: Where it was run, or that it was not.
        verbs: The commands of `wrp` that it is made for.

    Example:
        >>> find_recipe("generated/teacher").verbs
        ('fit',)
    """

    name: str
    path: Path
    text: str
    purpose: str
    status: str
    verbs: tuple[str, ...]


def recipes() -> dict[str, Recipe]:
    """Read all recipes; return them by name, in the order of their names.

    Example:
        >>> [name for name in recipes() if name.startswith("davis/")]
        ['davis/propagation']
    """
    folder = next((found for found in _FOLDERS if found.is_dir()), None)
    files = [] if folder is None else [one for one in folder.glob("*/*.yaml") if one.parent.name != _SWEEPS]
    return {recipe.name: recipe for recipe in map(_read, sorted(files))}


def _read(path: Path) -> Recipe:
    text = path.read_text(encoding="utf-8")
    purpose, status = (line.removeprefix("# ") for line in text.splitlines()[:2])
    content = yaml.safe_load(text)
    if "model" not in content:
        verbs: tuple[str, ...] = ("autolabel",)
    else:
        verbs = ("test", "predict") if content["model"]["class_path"] == "PropagationModule" else ("fit",)
    return Recipe(f"{path.parent.name}/{path.stem}", path, text, purpose, status.removeprefix(_STATUS), verbs)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        WrpError: If there is none; the message names the close ones.

    Example:
        >>> find_recipe("dinov2")
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no recipe dinov2; did you mean images/dinov2? `wrp recipes` lists all
    """
    known = recipes()
    if name in known:
        return known[name]
    steps = [full for full in known if full.partition("/")[2] == name]  # `teacher`, without the data set
    close = steps or get_close_matches(name, known, 3, 0.5)
    meant = f" did you mean {' or '.join(close)}?" if close else ""
    raise WrpError(f"there is no recipe {name};{meant} `wrp recipes` lists all")


def with_recipes(args: list[str]) -> list[str]:
    """Replace ``--recipe NAME`` among the arguments of a command of `wrp` by ``--config FILE``.

    Args:
        args: The arguments, the command first.

    Raises:
        WrpError: If there is no such recipe, or it is for `wrp autolabel` and that is not the command, or the reverse.

    Example:
        >>> verb, config = with_recipes(["fit", "--recipe=generated/teacher"])
        >>> verb, Path(config.removeprefix("--config=")).name
        ('fit', 'teacher.yaml')
    """
    found, left = list[str](), list(args)
    while left:
        word = left.pop(0)
        flag, equals, name = word.partition("=")
        if flag != "--recipe":
            found.append(word)
            continue
        if not equals:
            name = left.pop(0) if left and not left[0].startswith("-") else ""
        if not name:
            raise WrpError("--recipe needs the name of a recipe; `wrp recipes` lists all")
        recipe = find_recipe(name)
        if ("autolabel" in recipe.verbs) != (args[0] == "autolabel"):
            commands = " and ".join(f"wrp {verb}" for verb in recipe.verbs)
            raise WrpError(f"the recipe {name} is for {commands}, not for wrp {args[0]}")
        if args[0] == "autolabel" and any(other.partition("=")[0] == "--config" for other in (*found, *left)):
            raise WrpError(f"--recipe and --config cannot both be given: save `wrp recipes {name}` and edit it")
        found.append(f"--config={recipe.path}")
    return found
