import numpy as np
import torch

from healnet.baselines import LateConcat
from healnet.encoders import OmicEncoder


def test_the_head_reads_the_embeddings_side_by_side():
    """With one token, attention pools it as it is, so that an embedding is two SELU layers."""
    torch.manual_seed(0)
    model = LateConcat({"rna": OmicEncoder(5, "vector"), "cnv": OmicEncoder(3, "vector")}, out_dim=2, dim=4)
    model.double().eval()
    inputs = {"rna": torch.randn(2, 5, dtype=torch.float64), "cnv": torch.randn(2, 3, dtype=torch.float64)}
    p = {name: x.detach().numpy() for name, x in model.named_parameters()}

    def layer(x, prefix):
        return x @ p[f"{prefix}.weight"].T + p[f"{prefix}.bias"]

    def selu(x):
        return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1))

    embedded = [
        selu(layer(selu(layer(x.numpy(), f"embed.layers.{name}.0.linear")), f"embed.layers.{name}.1.linear"))
        for name, x in inputs.items()
    ]
    expected = layer(np.maximum(layer(np.concatenate(embedded, 1), "head.0"), 0), "head.3")
    np.testing.assert_allclose(model(inputs).detach(), expected, rtol=0, atol=1e-12)


def test_zero_imputation_is_a_zero_embedding():
    model = LateConcat({"rna": OmicEncoder(5, 2), "cnv": OmicEncoder(3, 2)}, dim=4, missing="zero").eval()
    rna = torch.randn(2, 5)
    first, *_, last = model.head
    embedded = model.embed({"rna": model.encoders["rna"](rna)}, 2)[0][:, 0]
    expected = last((embedded @ first.weight[:, :4].T + first.bias).relu())
    torch.testing.assert_close(model({"rna": rna}), expected)


def test_number_of_parameters():
    model = LateConcat({"rna": OmicEncoder(50, "vector"), "cnv": OmicEncoder(20, "vector")}, out_dim=4)
    embedding = 256 * 256 + 256 + 2 * (256 * 256 + 256) + 256 + 1
    encoders = (50 + 1) * 256 + (20 + 1) * 256
    assert sum(p.numel() for p in model.parameters()) == (
        encoders + 2 * embedding + 512 * 256 + 256 + 256 * 4 + 4
    )
