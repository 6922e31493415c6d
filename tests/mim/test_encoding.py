"""The four ways to keep hidden blocks from an encoder, each against a few lines that do the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.engine.cpu_kernels import use_cpu_kernels
from prostate_mim.masked import MaskContext, masked_twin
from prostate_mim.mim import BlockGrid, expand_blocks, random_hidden_blocks
from prostate_mim.mim.encoding import Encoding
from prostate_mim.mim.methods import ENCODINGS
from prostate_mim.nets import build_encoder

GRID = BlockGrid((4, 16, 32), (2, 2, 2))  # blocks of 1 x 1 x 2 cells
LEVELS = 4


def make(kind: str, path: str = "auto", architecture: str = "resenc-s") -> Encoding:
    """Float64, evaluation mode; the token is not zero."""
    torch.manual_seed(0)
    encoding = Encoding(build_encoder(architecture), GRID, kind, path).double().eval()
    if encoding.token is not None:
        nn.init.normal_(encoding.token)
    return encoding


@pytest.fixture
def voxels() -> Tensor:
    return torch.randn(2, 1, *GRID.size_zyx, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def hidden_blocks() -> Tensor:
    return random_hidden_blocks(2, GRID.grid_zyx, 0.5, torch.Generator().manual_seed(2))


def same(found: list[Tensor], expected: list[Tensor], tolerance: float = 0.0) -> bool:
    return len(found) == len(expected) and all(
        torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(found, expected, strict=True)
    )


def middle_by_hand(encoding: Encoding, filled: Tensor, hidden: Tensor) -> list[Tensor]:
    """Two stages, the token at hidden positions, two stages; what goes on is also what is returned."""
    encoder, features = encoding.encoder, []
    assert encoding.token is not None
    for number, stage in enumerate(encoder.stages):
        filled = stage(filled)
        if number == 1:
            _, channels, d, h, w = filled.shape
            where = nn.functional.interpolate(hidden.double(), (d, h, w)).bool().expand(2, channels, d, h, w)
            filled = torch.where(where, encoding.token.expand_as(filled), filled)
        features.append(filled)
    return features


@pytest.mark.parametrize("kind", ENCODINGS)
def test_each_kind_is_what_it_says(kind: str, voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Masked operators; zeros in a dense network; a token in the input; a token behind the second of four stages."""
    encoding = make(kind)
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    filled = voxels.masked_fill(hidden, 0.0)
    with torch.no_grad():
        found = encoding(voxels, hidden_blocks, LEVELS)
        if kind == "exact":
            bare = build_encoder("resenc-s").double()
            bare.load_state_dict(encoding.encoder.state_dict())
            features = MaskContext(hidden_blocks, GRID.block_zyx, GRID.size_zyx).hide(voxels, "dense")
            expected = [stage.dense() for stage in masked_twin(bare)(features)]
        elif kind == "filled":
            expected = encoding.encoder(filled)
        elif kind == "token":
            expected = encoding.encoder(filled + hidden * encoding.token)
        else:
            expected = middle_by_hand(encoding, filled, hidden)
        plain = encoding.encoder(voxels)
    assert same(found, expected, 1e-10)
    assert not same(found[-1:], plain[-1:], 1e-3)  # negative control


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("path", ["rows", "dense"])
def test_hidden_voxels_reach_no_stage(kind: str, path: str, voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Noise, inf and NaN at hidden voxels leave every stage as it is, bit for bit; at visible ones they show."""
    encoding = make(kind, path)
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    with torch.no_grad():
        first = encoding(voxels, hidden_blocks, LEVELS)
        for value in (voxels.flip(0) * 100, torch.full_like(voxels, math.inf), torch.full_like(voxels, math.nan)):
            assert same(encoding(torch.where(hidden, value, voxels), hidden_blocks, LEVELS), first)
        control = encoding(torch.where(hidden, voxels, voxels.flip(0)), hidden_blocks, LEVELS)
    assert all(values.isfinite().all() for values in first)
    assert not any(torch.equal(a, b) for a, b in zip(control, first, strict=True))


@pytest.mark.parametrize("kind", ENCODINGS)
def test_hiding_nothing_is_the_encoder(kind: str, voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Bit for bit; a single hidden block of one sample changes that sample, and leaves the other."""
    encoding = make(kind)
    nothing = torch.zeros_like(hidden_blocks)
    one = nothing.clone()
    one[0, 0, 1, 0] = True
    with torch.no_grad():
        expected = encoding.encoder(voxels)
        assert same(encoding(voxels, nothing, LEVELS), expected)
        partly = encoding(voxels, one, LEVELS)
    for found, plain in zip(partly, expected, strict=True):
        torch.testing.assert_close(found[1], plain[1], atol=1e-10, rtol=0)
    assert not torch.allclose(partly[-1][0], expected[-1][0], atol=1e-3)


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_are_the_coarsest(kind: str, levels: int, voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Asking for fewer stages gives the last ones of all."""
    encoding = make(kind)
    with torch.no_grad():
        assert same(encoding(voxels, hidden_blocks, levels), encoding(voxels, hidden_blocks, LEVELS)[-levels:])


def test_exact_features_are_zero_where_hidden(voxels: Tensor, hidden_blocks: Tensor) -> None:
    """At every stage, and nowhere else throughout a position; a dense encoder's are not (control)."""
    with torch.no_grad():
        exact, dense = (make(kind)(voxels, hidden_blocks, LEVELS) for kind in ("exact", "filled"))
    encoding = make("exact")
    for found, other, stage in zip(exact, dense, encoding.stages, strict=True):
        hidden = encoding.at_stage(hidden_blocks, stage)
        assert hidden.shape == (2, 1, *found.shape[2:])
        assert torch.equal((found == 0).all(1, keepdim=True), hidden)
        assert other.movedim(1, -1)[hidden[:, 0]].any()


def test_blocks_at_a_stage_by_hand() -> None:
    """A block of 4 x 16 x 32 voxels is 2 x 2 x 4 positions at stride 2 x 8 x 8."""
    encoding = make("filled")
    blocks = torch.zeros(1, *GRID.grid_zyx, dtype=torch.bool)
    blocks[0, 1, 0, 1] = True
    found = encoding.at_stage(blocks, encoding.stages[2])
    assert found.shape == (1, 1, 4, 4, 8)
    assert found.sum() == 16
    assert found[0, 0, 2:, :2, 4:].all()
    assert encoding.cell_zyx == (4, 16, 16)


@pytest.mark.parametrize("architecture", ["resenc-s", "resnet10", "effnet-lite0"])
@pytest.mark.parametrize("kind", ["token", "middle"])
def test_the_token_is_learned(kind: str, architecture: str, voxels: Tensor, hidden_blocks: Tensor) -> None:
    """It gets a gradient where something is hidden, has the shape of what it replaces, and another one is seen."""
    encoding = make(kind, architecture=architecture)
    assert encoding.token is not None
    channels = 1 if kind == "token" else encoding.stages[1].channels
    assert encoding.token.shape == (1, channels, 1, 1, 1)
    found = encoding(voxels, hidden_blocks, 1)[-1]
    found.square().sum().backward()
    assert encoding.token.grad is not None
    assert encoding.token.grad.any()
    with torch.no_grad():
        encoding.token += 1
        assert not torch.allclose(encoding(voxels, hidden_blocks, 1)[-1], found, atol=1e-6)


def test_only_tokens_are_new_parameters() -> None:
    """The encoder's names are its own; exact and filled add nothing."""
    names = set(build_encoder("resenc-s").state_dict())
    for kind in ENCODINGS:
        state = set(make(kind).state_dict())
        assert {name.removeprefix("encoder.") for name in state if name.startswith("encoder.")} == names
        assert state - {f"encoder.{name}" for name in names} == ({"token"} if kind in ("token", "middle") else set())


def test_on_a_cpu_auto_is_rows(voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Bit for bit the same as rows; dense is equal only up to rounding, so the law can tell them apart."""
    with torch.no_grad():
        auto, rows, dense = (make("exact", path)(voxels, hidden_blocks, 1)[0] for path in ("auto", "rows", "dense"))
    assert torch.equal(auto, rows)
    assert not torch.equal(auto, dense)
    torch.testing.assert_close(auto, dense, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", [kind for kind in ENCODINGS if kind != "exact"])
def test_dense_kinds_train_the_network_itself(kind: str) -> None:
    """Masked parts would keep the engine's kernels away, without which bf16 gradients on CPUs are rubbish."""
    encoder = build_encoder("resenc-s")
    assert Encoding(encoder, GRID, kind).encoder is encoder
    assert Encoding(encoder, GRID, "exact").encoder is not encoder


def test_dense_kinds_have_sound_gradients_in_bfloat16(voxels: Tensor, hidden_blocks: Tensor) -> None:
    """Near those of float32. With few planes, torch's own kernels read memory that nobody wrote."""
    encoding = Encoding(build_encoder("resenc-s"), GRID, "filled")
    use_cpu_kernels(encoding, "bf16")
    found = []
    for enabled in (False, True):
        encoding.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features = encoding(voxels.float(), hidden_blocks, LEVELS)
        sum(stage.float().square().mean() for stage in features).backward()  # type: ignore[union-attr]
        found.append(torch.cat([p.grad.flatten() for p in encoding.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.95
