"""The two files of a saved model, `config.json` and `model.safetensors`: written whole, and read with suspicion.

Nothing is unpickled, imported or run: the configuration is JSON, the weights are safetensors, and both are compared with the
model that they should fill before memory is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from healnet._files import atomic_path

__all__ = ["CONFIG", "WEIGHTS", "config_digest", "read_config", "read_models", "write_folder"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 2  # 1 had no digest of the configuration


def write_folder(folder: Path, config: dict[str, Any], models: Sequence[nn.Module]) -> None:
    """Write the weights, then the configuration with their digest and its own."""
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.touch()
        mode = (
            temporary.stat().st_mode
        )  # as the user's umask has it: safetensors makes files for the owner alone
        save_model(nn.ModuleList(models), str(temporary))
        temporary.chmod(mode)
    config = {"format": FORMAT, **config, "weights_sha256": _digest(folder / WEIGHTS)}
    config["config_sha256"] = config_digest(config)
    with atomic_path(folder / CONFIG) as temporary:
        text = json.dumps({"healnet": config}, indent=2, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved model.

    Raises:
        ValueError: A folder without the two files, a file that is not JSON, one of another library or of a newer format,
            weights that are not those it was written with.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: expected {CONFIG} and {WEIGHTS} of a saved model, got no {name}")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG}: expected JSON, got something else: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("healnet"), dict):
        raise ValueError(f"{folder / CONFIG}: expected the configuration of a healnet model, got another one")
    config: dict[str, Any] = content["healnet"]
    if config.get("format") not in (1, FORMAT):
        raise ValueError(
            f"{folder / CONFIG}: expected format 1 or {FORMAT}, got {config.get('format')!r}: "
            "was it saved by another version of healnet?"
        )
    digested = config["format"] > 1 or "config_sha256" in config
    if digested and config.get("config_sha256") != config_digest(config):
        raise ValueError(
            f"{folder / CONFIG}: expected the configuration that was saved, got another one: the file was changed"
        )
    if config.get("weights_sha256") != _digest(folder / WEIGHTS):
        raise ValueError(
            f"{folder / WEIGHTS}: expected the weights that {CONFIG} was written with, got others: "
            "the file was changed, cut short or comes from another model"
        )
    return config


def read_models(folder: Path, build: Callable[[], nn.Module], members: int) -> list[nn.Module]:
    """Models with the weights of the folder.

    Args:
        folder: Saved model, checked by `read_config`.
        build: Function that makes an untrained model.
        members: Number of models.

    Raises:
        ValueError: Weights that are not those of `members` such models.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            kinds = {name: file.get_slice(name).get_dtype() for name in shapes}
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got something else: {error}") from error
    if not 0 < members <= len(shapes):
        raise ValueError(f"{path}: expected the weights of {members} models, got {len(shapes)} tensors")
    # Without memory first: a configuration may ask for any size.
    with torch.device("meta"):
        wanted = {
            f"{i}.{name}": tuple(t.shape) for i in range(members) for name, t in build().state_dict().items()
        }
    for name, shape in shapes.items():
        if name not in wanted or wanted[name] != shape:
            got = f"of shape {shape}" if name in wanted else "that it does not have"
            raise ValueError(f"{path}: expected the weights of the model in {CONFIG}, got {name} {got}")
    # Weights that are replaced are drawn first, from a generator that the caller may have seeded.
    with torch.random.fork_rng(devices=[]):
        models = [build() for _ in range(members)]
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    dtype = next((dtypes[kind] for kind in kinds.values() if kind in dtypes), torch.float32)
    for model in models:
        model.to(dtype).eval()
    try:
        load_model(nn.ModuleList(models), str(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error
    return models


def config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of the configuration, whatever the layout of its file."""
    plain = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
