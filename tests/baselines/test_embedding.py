import torch

from healnet import Tokens
from healnet.baselines import MultiModN
from healnet.encoders import OmicEncoder


def test_vectors_of_the_absent_are_zero_and_named_absent():
    embed = MultiModN({name: OmicEncoder(3, "vector") for name in ("rna", "cnv", "mut")}, dim=4).embed
    tokens = {
        "cnv": Tokens(torch.ones(2, 5, 3), torch.tensor([[True] * 5, [False] * 5])),
        "rna": Tokens(torch.ones(2, 1, 3)),
    }
    vectors, present = embed(tokens, 2)
    assert vectors.shape == (2, 3, 4)
    assert present.tolist() == [[True, True, False], [True, False, False]]
    assert torch.equal((vectors != 0).any(dim=2), present)


def test_equal_tokens_pool_to_one_of_them():
    """Attention weights sum to one, however many tokens there are."""
    embed = MultiModN({"rna": OmicEncoder(3, "vector")}, dim=4).embed.eval()
    once, often = torch.randn(2, 1, 3), 7
    one, _ = embed({"rna": Tokens(once)}, 2)
    many, _ = embed({"rna": Tokens(once.expand(2, often, 3))}, 2)
    torch.testing.assert_close(one, many)
