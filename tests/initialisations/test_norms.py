"""Batch norm statistics from unlabelled crops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.initialisations import calibrate_norms
from prostate_mim.nets import build_encoder


def batches(count: int = 3, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(4, 1, 4, 32, 32, generator=generator) + 1 for _ in range(count)]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(3, 2, 1)).eval()


def test_statistics_by_hand() -> None:
    """The first norm gets the mean over batches of the convolution's own means and unbiased variances."""
    network = small()
    assert calibrate_norms(network, batches()) == 1
    values = [network[0](batch).detach().movedim(1, 0).flatten(1) for batch in batches()]
    mean = torch.stack([one.mean(1) for one in values]).mean(0)
    variance = torch.stack([one.var(1) for one in values]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert not torch.allclose(network[1].running_mean, torch.zeros(3), atol=0.1)  # negative control: not as it was


def test_weights_and_modes_stay() -> None:
    """Every parameter bit for bit, momentum, and each part's own mode; Dropout is not at work meanwhile."""
    network = small()
    network[1].momentum = 0.03
    network[3].train()
    before = {key: value.clone() for key, value in network.named_parameters()}
    calibrate_norms(network, batches())
    assert all(torch.equal(value, before[key]) for key, value in network.named_parameters())
    assert network[1].momentum == 0.03
    assert [part.training for part in network] == [False, False, False, True, False]


def test_same_crops_same_statistics() -> None:
    """Bit for bit, whatever the statistics were before; other crops give others."""
    first, second, other = small(), small(), small()
    second[1].running_mean += 7
    for network, seed in ((first, 5), (second, 5), (other, 6)):
        calibrate_norms(network, batches(seed=seed))
    assert torch.equal(first[1].running_mean, second[1].running_mean)
    assert torch.equal(first[1].running_var, second[1].running_var)
    assert not torch.equal(first[1].running_mean, other[1].running_mean)


def test_a_random_encoder_becomes_usable() -> None:
    """effnet-lite0: features are as wide as in training; with mean 0 and variance 1 they grow from stage to stage."""
    torch.manual_seed(0)
    encoder = build_encoder("effnet-lite0").eval()
    with torch.inference_mode():
        raw = [float(values.std()) for values in encoder(batches()[0])]
    assert calibrate_norms(encoder, batches()) == 48  # 1 + 2 + 15 * 3
    with torch.inference_mode():
        calibrated = [float(values.std()) for values in encoder(batches(1, seed=9)[0])]
        expected = [float(values.std()) for values in encoder.train()(batches(1, seed=9)[0])]
    assert calibrated == pytest.approx(expected, rel=0.25)
    assert raw != pytest.approx(expected, rel=0.25)  # negative control


def test_without_batch_norm_nothing_happens() -> None:
    """Not even a crop is asked for."""

    def never() -> Iterator[Tensor]:
        raise AssertionError
        yield

    assert calibrate_norms(build_encoder("resenc-s"), never()) == 0


@pytest.mark.parametrize(
    ("crops", "error", "says"),
    [
        ([], UsageError, "no crops"), ([torch.zeros(1, 1, 2, 2, 2)], UsageError, "one crop"),
        ([torch.full((2, 1, 2, 2, 2), float("nan"))], TrainingError, "not finite"),
    ],
)  # fmt: skip
def test_refusals_leave_the_old_statistics(crops: list[Tensor], error: type[Exception], says: str) -> None:
    network = small()
    calibrate_norms(network, batches())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(error, match=says):
        calibrate_norms(network, [*batches(1), *crops] if crops else [])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network[1].training
    assert network[1].momentum == 0.1
