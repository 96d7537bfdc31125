"""Folders that were changed, cut short or come from elsewhere: a sentence, and nothing runs."""

import hashlib
import json
import pickle
import random
import re
import time

import pytest
import torch
from safetensors.torch import load, save_file

from healnet.pretrained.folder import CONFIG, WEIGHTS, config_digest
from healnet.training import TrainedModel


@pytest.fixture
def folder(trained, tmp_path):
    trained.save(tmp_path)
    return tmp_path


def refused(folder, message):
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}") as error:
        TrainedModel.load(folder)
    assert message in str(error.value)


def edit(folder, change, digest=True):
    content = json.loads((folder / CONFIG).read_text())
    change(content["healnet"])
    if digest:
        content["healnet"]["config_sha256"] = config_digest(content["healnet"])
    (folder / CONFIG).write_text(json.dumps(content))


def replace_weights(folder, tensors):
    """Other weights, with the hash that an attacker would give them."""
    save_file(tensors, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, lambda config: config.update(weights_sha256=digest))


def test_loading_leaves_the_global_random_state_as_it_was(folder):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    TrainedModel.load(folder)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_half_a_folder(folder, name):
    (folder / name).unlink()
    refused(folder, f"expected config.json and model.safetensors of a saved model, got no {name}")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_cut_short(folder, kept):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    refused(folder, "expected the weights that config.json was written with, got others")


def test_one_bit_of_the_weights(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, "expected the weights that config.json was written with, got others")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": "bert"}', '{"healnet": 3}', "[" * 100_000])
def test_configurations_that_are_none(folder, text):
    (folder / CONFIG).write_text(text)
    refused(
        folder,
        "expected JSON" if text in ("", "{") or len(text) > 99 else "expected the configuration of a healnet",
    )


def test_another_format(folder):
    edit(folder, lambda config: config.update(format=3))
    refused(folder, "expected format 1 or 2, got 3: was it saved by another version of healnet?")


def test_a_pickle_is_not_opened(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").write_text, ("",))

    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, lambda config: config.update(weights_sha256=digest))
    refused(folder, "expected safetensors, got something else")
    assert not (tmp_path / "exploded").exists()


def test_names_from_the_file_are_not_imported(folder):
    def change(config):
        config["architecture"]["encoders"]["rna"]["class"] = "os.system"

    edit(folder, change)
    with pytest.raises(ValueError, match=r"^modality 'rna': unknown encoder 'os.system'; pass its class"):
        TrainedModel.load(folder)


def test_weights_of_another_model(folder):
    tensors = load((folder / WEIGHTS).read_bytes())  # not load_file, whose tensors are a map of the file
    replace_weights(folder, {**tensors, "0.latents": torch.zeros(3, 3)})
    refused(folder, "expected the weights of the model in config.json, got 0.latents of shape (3, 3)")
    replace_weights(folder, {**tensors, "0.extra": torch.zeros(1)})
    refused(folder, "expected the weights of the model in config.json, got 0.extra that it does not have")
    del tensors["1.latents"]
    replace_weights(folder, tensors)
    refused(folder, 'Missing key(s) in state_dict: "1.latents"')


@pytest.mark.parametrize("argument", ["num_latents", "latent_dim", "depth"])
def test_sizes_that_would_fill_the_memory_take_none(folder, argument):
    edit(folder, lambda config: config["architecture"]["arguments"].update({argument: 10**9}))
    started = time.process_time()
    with pytest.raises(ValueError, match="expected"):
        TrainedModel.load(folder)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("features"),
        lambda config: config.update(members="two"),
        lambda config: config.update(members=10**9),
        lambda config: config.update(centers=[0.0]),
        lambda config: config.update(scales=[0.0, 1.0]),
        lambda config: config.update(features=7),
        lambda config: config.update(baselines=[{"times": [2, 1]}, {}]),
        lambda config: config["scaler"]["tables"]["rna"].pop("scale"),
        lambda config: config["scaler"]["tables"]["rna"]["scale"].__setitem__(0, -1.0),
        lambda config: config["architecture"]["arguments"].update(trust_remote_code=True),
        lambda config: config["architecture"]["encoders"]["rna"]["arguments"].update(tokens=-1),
        lambda config: config.update(architecture=[]),
    ],
)
def test_every_other_change_is_a_value_error(folder, change):
    edit(folder, change)
    with pytest.raises(ValueError, match=r"expected|two"):
        TrainedModel.load(folder)


def test_single_bits_of_the_configuration_are_refused(folder):
    """Most leave it JSON, and some would move a center or swap a feature's name."""
    content = (folder / CONFIG).read_bytes()
    places = random.Random(0).sample(range(8 * len(content)), 150)
    for place in places:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (folder / CONFIG).write_bytes(flipped)
        with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}"):
            TrainedModel.load(folder)


def test_a_changed_number_is_refused_and_another_layout_is_not(folder):
    edit(folder, lambda config: None, digest=False)  # in one line
    TrainedModel.load(folder)
    edit(folder, lambda config: config["centers"].__setitem__(0, 0.5), digest=False)
    refused(folder, "expected the configuration that was saved, got another one: the file was changed")
    edit(folder, lambda config: config.pop("config_sha256"), digest=False)
    refused(folder, "expected the configuration that was saved, got another one: the file was changed")
