"""Models as folders that a hub holds: weights, their settings, and a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wrp.errors import WrpError, in_short
from wrp.io.checkpoints import CLASS_KEY, SEEN_KEY, SETTINGS_KEY, classes_in, save_weights
from wrp.io.networks import PUBLISHED
from wrp.io.outputs import MODEL, claim
from wrp.io.tables import escape_markdown, format_score, markdown_table
from wrp.io.writing import MARKER, replacing, write_json, write_text

_CARD, _CONFIG = "README.md", "config.json"


@dataclass(frozen=True)
class Card:
    """What a model card says besides what the model itself knows.

    Attributes:
        license: The licence of the weights, such as ``cc-by-4.0`` or ``other``; that of the data may bind it.
        data: What it was trained on, a sentence or more of Markdown.
        scores: Scores in percent by name, such as ``{"val/miou": 71.3}``; say in ``data`` on what.

    Raises:
        WrpError: If no licence is given.

    Example:
        >>> Card("cc-by-4.0", data="CamVid, 367 labelled frames").license
        'cc-by-4.0'
    """

    license: str
    data: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a card without a licence."""
        if not self.license.strip():
            raise WrpError("a published model needs a licence, such as license='cc-by-4.0'")


def write_published(checkpoint: dict[str, Any], folder: Path, card: Card, name: str | None = None) -> Path:
    """Write a model as a folder that can be published: ``model.safetensors``, ``config.json``, ``README.md``.

    Args:
        checkpoint: Content of the checkpoint of one of the package's modules.
        folder: The folder; new, empty, or written by this function.
        card: What the model card says besides.
        name: The model's name, the title of the card; None: that of the folder.

    Returns:
        The folder, without links on the way to it.

    Raises:
        WrpError: If the folder holds other files.
    """
    folder = claim(folder, MODEL, option="the folder of the model")
    with replacing(folder / PUBLISHED) as temporary:
        save_weights(checkpoint, temporary)
    write_json(folder / _CONFIG, {"library": "wrp", "class": checkpoint[CLASS_KEY], **_settings(checkpoint)})
    write_text(folder / _CARD, _text(checkpoint, card, name or folder.name))
    return folder


def _settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {"settings": {key: value for key, value in checkpoint[SETTINGS_KEY].items() if not key.startswith("_")}}


def _text(checkpoint: dict[str, Any], card: Card, name: str) -> str:
    """Return the model card: metadata that hubs read, then Markdown."""
    about: dict[str, Any] = {"library_name": "wrp", "license": card.license, "tags": ["wrp"]}
    kind, classes, seen = checkpoint[CLASS_KEY], classes_in(checkpoint), len(checkpoint.get(SEEN_KEY, ()))
    home, _, class_ = kind.rpartition(".")
    use = f"from {home} import {class_}\n\nmodule = {class_}.from_pretrained({json.dumps(name)})"
    if classes is not None:
        about |= {"pipeline_tag": "image-segmentation", "tags": ["wrp", "semantic-segmentation"]}
    title = f"# {escape_markdown(name)}"
    parts = [f"---\n{yaml.safe_dump(about, sort_keys=True)}---", title, f"A `{kind}` of the package wrp."]
    if classes is None:
        parts.append(f"```python\n{use}\n```")
    else:
        use = f'import wrp\n{use}\nlabels, confidence = wrp.Labeler(module, module.label_map).predict("photo.jpg")'
        parts.append(f"```python\n{use}\n```")
        rows = [
            [one, str(id_), "#{:02x}{:02x}{:02x}".format(*color)]
            for one, id_, color in zip(classes.names, classes.ids, classes.colors, strict=True)
        ]
        parts += ["## Classes", markdown_table(["class", "id", "colour"], rows)]
    parts += ["## Data", card.data or "The authors do not say what it was trained on."]
    parts.append(f"It has learned from {seen} labels, whose hashes are in the file." if seen else "")
    scores = [[key, format_score(value)] for key, value in card.scores.items()]
    parts += ["## Scores", markdown_table(["score", "percent"], scores) if scores else "None are given."]
    parts += ["## Licence", f"The weights are published under `{card.license}`; see there what it allows."]
    return "\n\n".join(part for part in parts if part) + "\n"


def published_weights(name: str | Path, revision: str | None = None) -> Path:
    """Return the weights of a published model: of a local folder, or else downloaded from the Hugging Face Hub.

    Args:
        name: A folder of :func:`write_published`, or ``<owner>/<model>`` on the hub.
        revision: Branch, tag or commit on the hub; None: the newest.

    Raises:
        WrpError: If there is neither, or it cannot be downloaded.
    """
    if (folder := Path(name)).is_dir():
        if not (folder / PUBLISHED).is_file():
            raise WrpError(f"{folder} holds no {PUBLISHED}; expected a folder of save_pretrained")
        return folder / PUBLISHED
    hub = _hub()
    try:
        return Path(hub.hf_hub_download(str(name), PUBLISHED, revision=revision))
    except _refusals(hub) as error:  # no network, no such model, no such name
        raise WrpError(
            f"{name} is neither a folder nor can it be had from the Hugging Face Hub: {in_short(error)}"
        ) from error


def push(checkpoint: dict[str, Any], name: str, card: Card, private: bool = True) -> str:
    """Publish a model on the Hugging Face Hub, with the token of `hf auth login` or ``HF_TOKEN``.

    Args:
        checkpoint: Content of the checkpoint of one of the package's modules.
        name: ``<owner>/<model>``; it is made if there is none.
        card: What the model card says besides.
        private: Whether only its owner sees a model that is made.

    Returns:
        The address of the commit.

    Raises:
        WrpError: If it cannot be reached, or refuses.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_published(checkpoint, Path(temporary, "model"), card, name)
        try:
            api = hub.HfApi(library_name="wrp")
            api.create_repo(name, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=[MARKER])
        except _refusals(hub) as error:
            raise WrpError(f"{name} cannot be written on the Hugging Face Hub: {in_short(error)}") from error
    return str(done)


def _refusals(hub: Any) -> tuple[type[BaseException], ...]:
    """Return what the package of the hub raises; of its HTTP client, whichever it is, all errors have one base."""
    refused = hub.errors.HfHubHTTPError
    return OSError, ValueError, refused, *refused.__bases__


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise WrpError(f"models on a hub need {error.name}: pip install 'wrp[hub]'") from error
    return huggingface_hub
