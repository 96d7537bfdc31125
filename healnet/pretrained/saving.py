"""Save trained networks with all that they need to a folder, and load them: `save_folder`, `load_folder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import healnet
from healnet._files import atomic_path, need
from healnet.encoders import ModalityEncoder
from healnet.fusion.settings import settings_of
from healnet.pretrained.architecture import NotDescribableError, describe, rebuild
from healnet.pretrained.card import card_of

need("safetensors", "'healnet[hub]'", "saving and loading models")

from healnet.pretrained.folder import CONFIG, WEIGHTS, read_config, read_models, write_folder  # noqa: E402  # after its absence is explained

__all__ = ["load_folder", "save_folder"]


def save_folder(
    folder: Path, models: Sequence[nn.Module], parts: Mapping[str, Any], build: Callable[[], nn.Module] | None
) -> None:
    """Write weights, configuration and model card.

    Args:
        folder: Folder; created if missing.
        models: Networks of one architecture.
        parts: What else a trained model is made of, as what JSON holds.
        build: Function that makes an untrained network, where plain values do not describe it.

    Raises:
        ValueError: Networks that cannot be made again.
    """
    architecture, reason, make = None, None, build
    encoders = getattr(models[0], "encoders", {})
    own = {type(e) for e in encoders.values() if not type(e).__module__.startswith("healnet.")}
    if make is None:
        try:
            architecture = describe(models[0])
            make = partial(rebuild, architecture, tuple(own))
        except NotDescribableError as error:
            raise ValueError(
                f"{error}; pass `build=`, a function that makes the untrained network, here and to load"
            ) from error
    else:
        reason = "it was saved with one"
    _check_made_again(models, make, "build() makes" if architecture is None else "its arguments make")
    config = {
        "version": healnet.__version__,
        "torch": torch.__version__,
        "architecture": architecture,
        "reason": reason,
        "members": len(models),
        **parts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, config, models)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(card_of(config, sorted(kind.__name__ for kind in own)), encoding="utf-8")


def _check_made_again(models: Sequence[nn.Module], make: Callable[[], nn.Module], how: str) -> None:
    """Refuse at saving what could only be refused when it is loaded, perhaps by someone else."""
    with torch.device("meta"):
        again = make()
    for model in models:
        shapes, other = (
            {
                name: tuple(x.shape)
                for name, x in one.state_dict().items()
                if not name.endswith("_extra_state")
            }
            for one in (model, again)
        )
        differ = [name for name in {**shapes, **other} if shapes.get(name) != other.get(name)]
        if differ:
            raise ValueError(
                f"expected a network that {how} again, got another one: {differ[0]} is of shape "
                f"{shapes.get(differ[0])}, and {other.get(differ[0])} there"
            )
        mine, theirs = settings_of(model), settings_of(again)
        where = [name for name in mine if mine[name] != theirs.get(name)]
        if where:
            key = next(k for k, v in mine[where[0]].items() if v != theirs.get(where[0], {}).get(k))
            raise ValueError(
                f"expected a network that {how} again, got another one: "
                f"{'.'.join(filter(None, (where[0], key)))} is {mine[where[0]][key]!r}, and "
                f"{theirs.get(where[0], {}).get(key)!r} there; does it keep each argument of its constructor as it is?"
            )


def load_folder(
    name: str | Path,
    encoders: Sequence[type[ModalityEncoder]],
    build: Callable[[], nn.Module] | None,
    hub: Mapping[str, Any],
) -> tuple[list[nn.Module], dict[str, Any], Path]:
    """The networks, the other parts as they were given to `save_folder`, and the path of their file.

    Args:
        name: Folder, or "owner/name" on the Hub, from which its two files are downloaded.
        encoders: Classes of encoders beside the library's.
        build: Function that makes an untrained network.
        hub: Keyword arguments of huggingface_hub's download.

    Raises:
        ValueError: No folder, or one that does not hold a whole saved model.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(name, hub)
    config = read_config(folder)
    if build is None and config.get("architecture") is None:
        raise ValueError(
            f"{folder}: expected `build=`, a function that makes the model: {config.get('reason')}"
        )
    try:
        make = build or partial(rebuild, config["architecture"], tuple(encoders))
        models = read_models(folder, make, int(config["members"]))
        names = "modalities features scaler centers scales baselines bins classes card".split()
        # The first format left the output to the networks.
        parts = {"output": config.get("output"), **{key: config[key] for key in names}}
        return models, parts, folder / CONFIG
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: expected a saved model, got {error!r}") from error


def _downloaded(name: str | Path, hub: Mapping[str, Any]) -> Path:
    path = Path(name)
    if path.exists() or len(path.parts) != 2 or path.is_absolute() or path.parts[0] in (".", ".."):
        raise ValueError(
            f"{path}: expected a folder, or 'owner/name' of the Hub, and there is no such folder"
        )
    client = need("huggingface_hub", "'healnet[hub]'", "loading a model from the Hub")
    for file in (CONFIG, WEIGHTS):
        found = client.hf_hub_download(str(name), file, **hub)
    return Path(found).parent
