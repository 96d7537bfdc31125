"""The card of a model as text."""

from healnet.pretrained.card import model_card


def test_what_is_not_stated_is_said_to_be():
    card = model_card(
        "classes",
        {"slide": None},
        1,
        "0.1.0",
        data=None,
        told=[],
        metrics={},
        limits="Adults only.",
        custom=[],
    )
    assert card.startswith(
        "---\nlibrary_name: healnet\ntags:\n- healnet\n- multimodal\n---\n\n# HEALNet over slide\n\n"
    )
    assert "Predicts the most probable class, and a probability per class (`predict_proba`).\n" in card
    assert "survival-analysis" not in card
    assert card.count("Not stated.") == 2
    assert "- `slide`: any number of elements" in card
    assert "Adults only.\n\nFor research." in card


def test_a_model_that_needs_code_says_which():
    card = model_card(
        "cox",
        {"rna": 5},
        3,
        "0.1.0",
        data="d",
        metrics={"C": 0.71234},
        limits=None,
        custom=["encoders=[Mine]"],
        told=["the times of their events"],
    )
    assert 'TrainedModel.load("FOLDER", encoders=[Mine])' in card
    assert "| C | 0.7123 |" in card
    assert "The mean of 3 models." in card
    assert (
        "training patients\n\n- the times of their events\n- whatever the weights have memorized\n\n## Use"
        in card
    )
    assert "- survival-analysis" in card
