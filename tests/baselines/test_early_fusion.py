import torch

from healnet import HEALNet, Masked, Tokens
from healnet.baselines import EarlyFusion
from healnet.encoders import ModalityEncoder, OmicEncoder

SIZES = {"num_latents": 3, "latent_dim": 8, "num_heads": 2, "head_dim": 3, "depth": 2}


class Joined(ModalityEncoder):
    """Both tables' feature tokens in one modality, made by hand."""

    token_dim = 6 + 2

    def __init__(self, model):
        super().__init__()
        self.parts, self.embeddings = model.encoders, model.embeddings

    def forward(self, inputs):
        values = []
        for name, width in (("rna", 5), ("cnv", 3)):
            x = inputs[:, :5] if name == "rna" else inputs[:, 5:]
            tokens = self.parts[name](x).values
            values.append(torch.cat((tokens, self.embeddings[name].expand(len(x), width, -1)), dim=2))
        return Tokens(torch.cat(values, dim=1))


def build():
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5, token_dim=6), "cnv": OmicEncoder(3, token_dim=4)}
    return EarlyFusion(encoders, embedding_dim=2, out_dim=2, **SIZES).double().eval()


def test_it_is_a_healnet_of_one_modality_that_holds_all_tokens():
    model = build()
    x = torch.randn(2, 8, dtype=torch.float64)
    one = HEALNet({"all": Joined(model)}, layers=model.layers, head=model.head, **SIZES).double().eval()
    one.latents = model.latents
    torch.testing.assert_close(model({"rna": x[:, :5], "cnv": x[:, 5:]}), one({"all": x}), rtol=0, atol=1e-12)


def test_every_token_is_as_wide_as_the_widest_and_its_embedding():
    assert {name: len(e) for name, e in build().embeddings.items()} == {"rna": 2, "cnv": 4}


def test_the_order_of_features_and_modalities_changes_nothing():
    model = build()
    rna, cnv = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(model({"rna": rna, "cnv": cnv}), model({"cnv": cnv, "rna": rna}))


def test_a_missing_gene_is_passed_over():
    model, rna = build(), torch.randn(1, 5, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, True]])
    other = rna.clone()
    other[0, 1] = 7
    assert torch.equal(model({"rna": Masked(rna, mask)}), model({"rna": Masked(other, mask)}))
    assert not torch.allclose(model({"rna": Masked(rna, mask)}), model({"rna": rna}))


def test_who_has_nothing_gets_the_head_of_the_first_latents():
    model = build()
    torch.testing.assert_close(model({}), model.head(model.latents[None]))


def test_number_of_parameters_does_not_grow_with_modalities():
    def count(model):
        return sum(p.numel() for p in model.layers.parameters())

    few = EarlyFusion({"0": OmicEncoder(5)}, **SIZES)
    many = EarlyFusion({str(i): OmicEncoder(5) for i in range(4)}, **SIZES)
    assert count(few) == count(many)
    grown = sum(p.numel() for p in many.parameters()) - sum(p.numel() for p in few.parameters())
    assert grown == 3 * (5 * 31 + 8)  # the encoders' and the modalities' embeddings
