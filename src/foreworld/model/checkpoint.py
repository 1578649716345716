"""Checkpoints: a folder of `model.safetensors`, `config.json` and a model card, `README.md`.

    save(model, "runs/first/model", card="Trained on ...")        model = load("runs/first/model")

Nothing in the folder is executed on loading: tensors are safetensors, the rest is JSON, and the class comes from an
allow-list. A digest over each file finds a truncated or altered one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import foreworld
from foreworld.episodes.files import read_json, sync_folder, sync_tree
from foreworld.episodes.schema import Schema
from foreworld.errors import FormatError, InputError, SchemaError
from foreworld.model.latent_model import LatentConfig, LatentModel
from foreworld.model.pretrained import Pretrained, PretrainedConfig
from foreworld.model.world_model import WorldModel, WorldModelConfig

FORMAT_VERSION = 1
ADVICE = "restore it from a copy or train again"
TENSORS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# The only classes that a checkpoint may name.
Model = WorldModel | LatentModel
_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "WorldModel": (WorldModel, WorldModelConfig),
    "LatentModel": (LatentModel, LatentConfig),
}
Kind = TypeVar("Kind", WorldModel, LatentModel)


def save(model: Model, folder: str | Path, card: str | None = None, extra: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint; an existing one is replaced only when the new one is complete on disk.

    Args:
        model: Saved as it is.
        folder: Made if absent.
        card: Markdown for the model card: what it was trained on, figures and the commands that gave them.
        extra: JSON that belongs to the model, such as a forecaster's calibration; given back by `read_extra`.

    Returns:
        The folder.

    Raises:
        InputError: The class may not be saved, `extra` is not JSON, or the folder holds something else.
    """
    folder = Path(folder).absolute()
    name = type(model).__name__
    if _CLASSES.get(name, (None,))[0] is not type(model):
        raise InputError(f"a {name} cannot be saved; a checkpoint holds one of {', '.join(_CLASSES)}")
    _refuse_other_content(folder)
    try:
        extra = json.loads(json.dumps(extra or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"extra is not JSON: {error}; give plain numbers, strings, lists and dicts") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(folder, "new"), _beside(folder, "old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        save_file(tensors, new / TENSORS)
        content = {
            "format": FORMAT_VERSION,
            "class": name,
            "config": model.config.model_dump(mode="json"),
            "schema": json.loads(model.schema.to_json()),
            "sha256": _sha256(new / TENSORS),
            "foreworld": foreworld.__version__,
            "extra": extra,
        }
        content["digest"] = _digest(content)
        (new / CONFIG).write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        (new / CARD).write_text(_card(model, card, content), encoding="utf-8")
        sync_tree(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # A folder cannot be replaced in one step everywhere: for an instant it has its other name, which `load` knows.
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(new, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(folder: str | Path, schema: Schema | None = None) -> WorldModel:
    """Read a checkpoint of a `WorldModel`; as `load_as`, which see."""
    return load_as(WorldModel, folder, schema)


def load_as(
    kind: type[Kind], folder: str | Path, schema: Schema | None = None, *, encoder: Pretrained | None = None
) -> Kind:
    """Read a checkpoint.

    Args:
        kind: Class of the model.
        folder: As given to `save`.
        schema: If given, the checkpoint's channels and step must equal its own; statistics may differ.
        encoder: The pretrained encoder that the model sees through, which the checkpoint does not hold.

    Returns:
        The model on the CPU, in evaluation mode, with the schema and statistics that it was trained with.

    Raises:
        InputError: The folder or a file in it is missing, or so is the encoder, or it is not the one declared.
        FormatError: A file is truncated or altered, of a newer format, or of a class that is not allowed.
        SchemaError: The checkpoint is of another schema.
    """
    folder, content = _whole(folder)
    advice, path = ADVICE, folder / TENSORS
    made, sizes = _CLASSES[content["class"]]
    if made is not kind:
        raise FormatError(f"checkpoint {folder} holds a {content['class']}, not a {kind.__name__}")
    try:
        own = Schema.from_json(json.dumps(content["schema"]), source=str(folder / CONFIG))
        config = sizes.model_validate(content["config"])
        # Building draws first weights, which are then replaced: the caller's random state must not notice.
        with torch.random.fork_rng(devices=[]):
            model: Kind = made(own, config) if encoder is None else _seeing(made, own, config, encoder)
        model.load_state_dict(load_file(path))
    except (ValidationError, SchemaError, SafetensorError, RuntimeError) as error:
        raise FormatError(f"checkpoint {folder} does not fit this foreworld: {error}; {advice}") from error
    if schema is not None and not schema.same_channels(own):
        differences = schema.differences(own) or "the channels are in another order"
        raise SchemaError(f"checkpoint {folder} is of another schema: {differences}; load it with the schema it has")
    return model.eval()


def load_any(folder: str | Path, *, encoder: Pretrained | None = None) -> Model:
    """Read a checkpoint of whichever class it names; as `load_as`, which see."""
    made: type[Model] = _CLASSES[_read(folder)[1]["class"]][0]
    return load_as(made, folder, encoder=encoder)  # type: ignore[type-var]


def check(folder: str | Path) -> PretrainedConfig | None:
    """Load a checkpoint to see that it can be; where it lacks a pretrained encoder, see that its files are whole.

    Returns:
        What the encoder is that has to be given on loading; None where nothing has to.

    Raises:
        InputError: As `load_as`.
        FormatError: Likewise.
    """
    content = _whole(folder)[1]
    declared = content["config"].get("pretrained")
    if content["class"] == LatentModel.__name__ and declared is not None:
        return PretrainedConfig.model_validate(declared)
    load_any(folder)
    return None


def read_extra(folder: str | Path) -> dict[str, Any]:
    """What was given to `save` as `extra`; raises as `load` does."""
    extra: dict[str, Any] = _read(folder)[1]["extra"]
    return extra


def _seeing(made: type[Any], schema: Schema, config: Any, encoder: Pretrained) -> Any:
    if made is not LatentModel:
        raise InputError(f"a {made.__name__} sees through no encoder; give none")
    return made(schema, config, encoder)


def _whole(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """As `_read`, with tensors that are those that were saved."""
    folder, content = _read(folder)
    path = folder / TENSORS
    if not path.is_file():
        raise InputError(f"checkpoint {folder} has no {TENSORS}; {ADVICE}")
    if _sha256(path) != content["sha256"]:
        raise FormatError(f"{path} is truncated or altered: its SHA-256 is not that in {CONFIG}; {ADVICE}")
    return folder, content


def _read(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder, or its other name if a `save` was cut short, and its checked configuration."""
    folder = Path(folder).absolute()
    if not folder.exists() and _beside(folder, "old").is_dir():
        folder = _beside(folder, "old")
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint folder {folder}; train a model first, or check the path")
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"checkpoint {folder} has no {CONFIG}; check the path, or restore the file from a copy")
    content = read_json(path)
    version = content.get("format")
    if not isinstance(version, int):
        raise FormatError(f"{path} has no format version; it is no checkpoint of foreworld, or is damaged")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format {version}; this foreworld reads up to {FORMAT_VERSION}: install a newer version"
        )
    if content.get("class") not in _CLASSES:
        raise FormatError(f"{path} names class {content.get('class')!r}; allowed are {', '.join(_CLASSES)}")
    if content.get("digest") != _digest(content):
        raise FormatError(f"{path} is truncated or altered: its digest does not match; restore it from a copy")
    return folder, content


def _refuse_other_content(folder: Path) -> None:
    """Saving replaces the whole folder, so it must hold nothing but a checkpoint."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the checkpoint")
    names = {path.name for path in folder.iterdir()}
    other = sorted(names - {TENSORS, CONFIG, CARD}) or sorted(names if CONFIG not in names else ())
    if other:
        raise InputError(f"{folder} holds {other[0]}, which is no part of a checkpoint; give an empty or a new folder")


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 over everything else in `config.json`: a changed statistic would silently change every forecast."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _card(model: Model, card: str | None, content: dict[str, Any]) -> str:
    schema, parameters = model.schema, sum(p.numel() for p in model.parameters())
    declared = getattr(model.config, "pretrained", None)
    apart = f"\n- Sees through {declared}, which is not in this folder: give it on loading." if declared else ""
    channels = [f"{c.name} ({c.role}{', ' + c.unit if c.unit else ''})" for c in schema.channels]
    return f"""# World model of {schema.name}

**Research software, not a medical device.** Not for diagnosis or treatment of anybody.

## Training and figures

{card.strip() if card else "Nothing was said about the data it was trained on: take its forecasts for unproven."}

## Intended use

Research on forecasts of {", ".join(model.quantities) or "latents"} and on plans of {", ".join(schema.names("action"))},
for subjects like those it was trained on, behind the guardrails, the refusals and the independent check of foreworld.

## Contents

- Class: {content["class"]}, {parameters:,} parameters, {model.config.members} ensemble members.{apart}
- Step: {schema.step:g} {schema.time_unit}; horizon: {model.config.grid.last} steps.
- Channels: {", ".join(channels)}.
- foreworld {content["foreworld"]}, format {content["format"]}; SHA-256 of `{TENSORS}`: `{content["sha256"]}`.
- Load with `foreworld.model.checkpoint.load_any(folder)`; nothing in this folder is executed.
"""
