import pytest
import torch

from healnet.explain._checks import finite_scores, modality_names, patches


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match=r"^expected scores of shape \(n,\), got \(1, 2\)$"):
        finite_scores([[1, 2]])
    with pytest.raises(ValueError, match=r"^expected finite scores, got nan at position 1$"):
        finite_scores([1.0, float("nan")])


def test_modalities_are_those_named_or_all_that_are_there():
    inputs = {"rna": torch.zeros(1, 1), "ct": None, "slide": torch.zeros(1, 2)}
    assert modality_names(inputs) == ["rna", "slide"]
    assert modality_names(inputs, ["slide"]) == ["slide"]
    with pytest.raises(
        ValueError, match=r"^modality 'ct': expected one that the inputs have, \['rna', 'slide'\]$"
    ):
        modality_names(inputs, ["ct"])
    assert modality_names(inputs, ["slide", "rna", "slide"]) == ["slide", "rna"]
    message = r"^expected at least one modality to explain, got none; the inputs have \['rna', 'slide'\]$"
    with pytest.raises(ValueError, match=message):
        modality_names(inputs, [])
    message = r"^expected modalities as several names, such as \['rna'\], got 'rna'$"
    with pytest.raises(ValueError, match=message):
        modality_names(inputs, "rna")


def test_patches_and_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^expected a score for each patch, got 2 coords and 1 scores$"):
        patches([[0, 0], [1, 1]], 256, [1.0])
    with pytest.raises(ValueError, match=r"^expected a footprint above 0, in level-0 pixels, got 0$"):
        patches([[0, 0]], 0, [1.0])
    with pytest.raises(ValueError, match=r"^expected finite coords of shape \(n, 2\), got shape \(1, 3\)$"):
        patches([[0, 0, 0]], 256, [1.0])
