"""`wrp recipes`."""

from __future__ import annotations

import argparse
from typing import Any


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "recipes",
        help="list the configurations that come with the package, or print one",
        description="List the configurations that come with the package: the commands that take them, what each is for "
        "and where it was run. With NAME, print that file, to be saved and edited: `wrp recipes NAME > mine.yaml`, "
        "then --config mine.yaml in place of --recipe NAME.",
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="recipe to print, such as cityscapes/teacher")
    verb.set_defaults(run=_recipes)


def _recipes(options: argparse.Namespace) -> None:
    from wrp.io.recipes import find_recipe, recipes

    if options.name is not None:
        print(find_recipe(options.name).text, end="")
        return
    lines = list[str]()
    for recipe in recipes().values():
        lines.append(f"{recipe.name} ({', '.join(f'wrp {verb}' for verb in recipe.verbs)})")
        lines += [f"    {recipe.purpose}", f"    {recipe.status[:1].upper()}{recipe.status[1:]}"]
    print("\n".join(lines))
