"""Time series: values, what was measured, and real time."""

import pytest
import torch

from healnet.encoders import SequenceEncoder
from healnet.inputs import Masked, TimeSeries
from healnet.nn.fourier import fourier_features
from healnet.testing import check_encoder

NAN = float("nan")


def series(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 7, 2, generator=generator, dtype=dtype)
    times = 48 * torch.rand(3, 7, generator=generator, dtype=dtype)
    mask = torch.rand(3, 7, 2, generator=generator) < 0.6
    return TimeSeries(values, times, mask)


def test_tokens_by_hand():
    values = torch.tensor([[[5.0, NAN], [NAN, NAN], [6.0, 7.0]]], dtype=torch.float64)
    times = torch.tensor([[0.0, 3.0, 18.0]], dtype=torch.float64)
    encoder = SequenceEncoder(2, num_bands=3, max_freq=8.0, duration=24.0)
    tokens = encoder(TimeSeries(values, times, ~values.isnan()))
    assert tokens.mask.tolist() == [[True, False, True]]
    waves = fourier_features(torch.tensor([[-1.0], [0.5]], dtype=torch.float64), 3, 8.0)
    expected = torch.cat((torch.tensor([[5.0, 0, 1, 0], [6, 7, 1, 1]], dtype=torch.float64), waves), dim=1)
    torch.testing.assert_close(tokens.values[tokens.mask], expected, rtol=0, atol=1e-14)


def test_without_a_duration_time_is_a_fraction_of_the_patients_own_span():
    times = torch.tensor([[2.0, 3.0, 6.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    tokens = SequenceEncoder(1, num_bands=0)(TimeSeries(torch.zeros(1, 4, 1), times, mask))
    assert tokens.values[0, :3, -1].tolist() == [-1, -0.5, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_seconds_since_1970_are_real_time_too(dtype):
    seconds = torch.tensor([[0, 1000, 70_001, 172_800]])
    values, mask = torch.zeros(1, 4, 1), torch.ones(1, 4, dtype=torch.bool)
    early, late = (TimeSeries(values, (start + seconds).to(dtype), mask) for start in (0, 1_600_000_000))
    torch.testing.assert_close(
        SequenceEncoder(1)(late).values, SequenceEncoder(1)(early).values, rtol=0, atol=1e-6
    )


def test_plain_and_masked_steps_are_evenly_spaced():
    values = torch.randn(2, 5, 3, dtype=torch.float64)
    times = torch.arange(5.0, dtype=torch.float64).expand(2, 5)
    encoder = SequenceEncoder(3)
    expected = encoder(TimeSeries(values, times, torch.ones(2, 5).bool())).values
    torch.testing.assert_close(encoder(values).values, expected, rtol=0, atol=0)
    torch.testing.assert_close(encoder(Masked(values, torch.ones(2).bool())).values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("duration", [None, 48.0])
def test_laws(duration):
    def pad(inputs):
        return TimeSeries(*(torch.cat((field, torch.zeros_like(field[:, :3])), dim=1) for field in inputs))

    good = series()
    wrong = [good._replace(times=good.times[:, :5]), good._replace(values=good.values[..., :1])]
    check_encoder(SequenceEncoder(2, duration=duration), good, pad=pad, wrong=wrong)


def test_order_of_steps_changes_nothing_but_their_order():
    good = series()
    order = torch.randperm(7)
    encoder = SequenceEncoder(2)
    shuffled = encoder(TimeSeries(*(field[:, order] for field in good)))
    torch.testing.assert_close(shuffled.values, encoder(good).values[:, order], rtol=0, atol=1e-14)


def test_a_value_that_is_missing_gets_no_gradient():
    good = series()
    values = good.values.clone().requires_grad_()
    tokens = SequenceEncoder(2)(good._replace(values=values))
    (tokens.values[tokens.mask] ** 2).sum().backward()
    assert bool((values.grad[~good.mask] == 0).all())
    torch.testing.assert_close(values.grad[good.mask], 2 * good.values[good.mask], rtol=0, atol=1e-14)


def test_wrong_input_is_refused():
    good = series()
    with pytest.raises(ValueError, match=r"^expected values of shape \(b, t, 5\), got \(3, 7, 2\)$"):
        SequenceEncoder(5)(good)
    with pytest.raises(ValueError, match=r"^expected times of shape \(3, 7\), got \(3, 7, 1\)$"):
        SequenceEncoder(2)(good._replace(times=good.times.unsqueeze(-1)))
    with pytest.raises(
        ValueError,
        match=r"^expected a mask of one of the shapes \(3,\), \(3, 7\), \(3, 7, 2\), got \(3, 6\)$",
    ):
        SequenceEncoder(2)(good._replace(mask=good.mask[:, :6, 0]))
    with pytest.raises(ValueError, match=r"^expected a positive duration or None, got 0$"):
        SequenceEncoder(2, duration=0)
