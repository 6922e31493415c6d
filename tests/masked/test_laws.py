"""Laws of masked networks, each with a control that must fail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
from masked_cases import PATHS, Chain, as_dense, build, context_of, distance, scramble, voxels_of
from masked_nets import DEEP_NETS, FAMILIES, LAWFUL, NETS, SMALL, net_world
from masked_oracle import Field, World
from torch import Tensor, nn

TRUNKS = ("resnet18", "dynunet", "our convnext-a")
PER_SAMPLE = [name for name, net in LAWFUL.items() if net.norm in ("group", "instance", "layer")]


def visible_voxels(place: World) -> Tensor:
    """(N, 1, D, H, W) bool, by the oracle."""
    return Field.hide(place, torch.zeros(place.samples, 1, *place.size_zyx)).visible


def run(network: nn.Module, place: World, voxels: Tensor, path: str) -> list[Tensor]:
    """Dense outputs of a fresh twin of a copy, dropout seeded."""
    from prostate_mim.masked import masked_twin

    torch.manual_seed(21)
    with torch.no_grad():
        return as_dense(masked_twin(deepcopy(network))(context_of(place).hide(voxels, path=path)))


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Bit for bit, and finite."""
    pairs = list(zip(found, expected, strict=True))
    return all(torch.equal(a, b) and bool(torch.isfinite(a).all()) for a, b in pairs)


def disturbed(voxels: Tensor, where: Tensor, value: float | None) -> Tensor:
    """Other values at some voxels; None: noise."""
    other = torch.randn_like(voxels) * 100 if value is None else torch.full_like(voxels, value)
    return torch.where(where, other, voxels)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAWFUL)
def test_hidden_voxels_change_nothing(name: str, training: bool, path: str) -> None:
    """Noise, and NaN, at hidden voxels: every feature exactly as before."""
    place = net_world(name)
    network = NETS[name].build(torch.float32).train(training)
    voxels = voxels_of(place, 1, dtype=torch.float32)
    before = run(network, place, voxels, path)
    for value in (None, float("nan")):
        assert same(run(network, place, disturbed(voxels, ~visible_voxels(place), value), path), before), value


@pytest.mark.parametrize("name", DEEP_NETS)
def test_hidden_voxels_change_nothing_in_deep_networks(name: str) -> None:
    """As above, once: rows, training."""
    place = net_world(name)
    network, voxels = NETS[name].build(torch.float32), voxels_of(place, 1, dtype=torch.float32)
    before = run(network, place, voxels, "rows")
    assert same(run(network, place, disturbed(voxels, ~visible_voxels(place), float("nan")), "rows"), before)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", LAWFUL)
def test_an_inverted_mask_is_noticed(name: str, path: str) -> None:
    """The control: with hidden and visible exchanged, noise at the hidden voxels changes the features."""
    place = net_world(name)
    inverted = World(~place.blocks, place.block_zyx, place.size_zyx)
    network, voxels = NETS[name].build(torch.float32), voxels_of(place, 1, dtype=torch.float32)
    before = run(network, inverted, voxels, path)
    assert not same(run(network, inverted, disturbed(voxels, ~visible_voxels(place), None), path), before)


@pytest.mark.parametrize("path", PATHS)
def test_hidden_gradients_are_zero(path: str) -> None:
    """No gradient reaches a hidden voxel, infinite as it is; some reaches every visible block."""
    from prostate_mim.masked import masked_twin

    place = net_world("dynunet")
    voxels = disturbed(voxels_of(place, 1), ~visible_voxels(place), float("inf")).requires_grad_()
    out = masked_twin(NETS["dynunet"].build())(context_of(place).hide(voxels, path=path)).dense()
    out.square().sum().backward()
    assert voxels.grad is not None
    assert bool((voxels.grad[~visible_voxels(place)] == 0).all())
    assert bool(torch.isfinite(voxels.grad).all()) and float(voxels.grad.abs().sum()) > 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["resnet18", "segresnet", "dynunet", "mednext with response", *FAMILIES])
def test_batch_permutation(name: str, path: str) -> None:
    """Samples in another order: the same features in that order (evaluating: dropout draws per place)."""
    place = NETS[name].world("ragged", samples=3)
    order = torch.tensor([2, 0, 1])
    network, voxels = NETS[name].build().train(name not in ("segresnet", "dynunet")), voxels_of(place, 1)
    moved = World(place.blocks[order], place.block_zyx, place.size_zyx)
    found, before = run(network, moved, voxels[order], path), run(network, place, voxels, path)
    gaps = [distance(a, b[order]) for a, b in zip(found, before, strict=True)]
    assert max(gaps) < 1e-10
    wrong = World(place.blocks, place.block_zyx, place.size_zyx)  # the control: the blocks stay behind
    found = run(network, wrong, voxels[order], path)
    assert max(distance(a, b[order]) for a, b in zip(found, before, strict=True)) > 1e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [*PER_SAMPLE, "our resnet10"])
def test_batch_of_one(name: str, path: str) -> None:
    """Instance, group and layer norm: a sample alone is the sample in the batch. Batch norm, the control: not."""
    place = NETS[name].world("ragged", samples=3)
    network, voxels = NETS[name].build(), voxels_of(place, 1)
    for part in network.modules():
        if isinstance(part, nn.Dropout | nn.Dropout3d):
            part.eval()
    together = run(network, place, voxels, path)
    gaps = []
    for n in range(3):
        alone = World(place.blocks[n : n + 1], place.block_zyx, place.size_zyx)
        found = run(network, alone, voxels[n : n + 1], path)
        gaps += [distance(a, b[n : n + 1]) for a, b in zip(found, together, strict=True)]
    assert (max(gaps) < 1e-10) == (name in PER_SAMPLE)


# -------------------------------------------------------------------------------------- contexts and twins


def _two_worlds(name: str) -> list[World]:
    return [NETS[name].world("random", 2, seed) for seed in (1, 2)]


@pytest.mark.parametrize("paths", [("dense", "dense"), ("rows", "rows"), ("rows", "dense")])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", TRUNKS)
def test_interleaved(name: str, shared: bool, paths: tuple[str, str]) -> None:
    """Two contexts in turn, part by part, through one twin or through two of the same network: as one by one."""
    from prostate_mim.masked import masked_twin

    places = _two_worlds(name)
    network = NETS[name].build().eval()
    first = masked_twin(network)
    twins = [first, first if shared else masked_twin(network)]
    voxels = [voxels_of(place, 1, seed) for seed, place in enumerate(places)]
    expected = [run(network, *given)[-1] for given in zip(places, voxels, paths, strict=True)]
    features: list[Any] = [
        context_of(place).hide(v, path=path) for place, v, path in zip(places, voxels, paths, strict=True)
    ]
    chains: list[list[Any]] = [list(twin.stages if hasattr(twin, "stages") else twin) for twin in twins]
    for step in range(len(chains[0])):
        features = [chain[step](feature) for chain, feature in zip(chains, features, strict=True)]
    found = [feature.dense() for feature in features]
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True, True]
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.parametrize("path", PATHS)
def test_threads(path: str) -> None:
    """One twin, four contexts in four threads, several times: as one by one."""
    from prostate_mim.masked import masked_twin

    name = "dynunet"
    network = NETS[name].build().eval()
    twin = masked_twin(network)
    places = [NETS[name].world("random", 2, seed) for seed in range(4)]
    voxels = [voxels_of(place, 1, seed) for seed, place in enumerate(places)]
    expected = [run(network, place, v, path)[0] for place, v in zip(places, voxels, strict=True)]

    def work(index: int) -> Tensor:
        with torch.no_grad():
            return twin(context_of(places[index]).hide(voxels[index], path=path)).dense()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(pool.map(work, range(4)), expected, strict=True))


@pytest.mark.parametrize("path", PATHS)
def test_context_is_used_again(path: str) -> None:
    """Several batches of voxels, channels and types through one context."""
    from prostate_mim.masked import masked_twin

    place = net_world("dynunet")
    network = NETS["dynunet"].build().eval()
    context, twin = context_of(place), masked_twin(network)
    for seed in (1, 2, 1):
        voxels = voxels_of(place, 1, seed)
        found = twin(context.hide(voxels, path=path)).dense()
        assert torch.equal(found, run(network, place, voxels, path)[0])
    single = twin.float()(context.hide(voxels.float(), path=path)).dense()
    assert single.dtype == torch.float32
    assert distance(single, found) < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_twin_shares_everything(name: str) -> None:
    """Keys, parameters and buffers are the network's own; the network itself stays an ordinary one."""
    from prostate_mim.masked import masked_twin

    network = NETS[name].build()
    kinds = {key: type(module) for key, module in network.named_modules()}
    twin = masked_twin(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert isinstance(twin, type(network))
    for (key, ours), (other, theirs) in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert key == other and ours is theirs
    for (key, ours), (other, theirs) in zip(network.named_buffers(), twin.named_buffers(), strict=True):
        assert key == other and ours is theirs
    assert {key: type(module) for key, module in network.named_modules()} == kinds
    assert [key for key, _ in twin.named_modules()] == list(kinds)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TRUNKS)
def test_deepcopy_of_a_twin(name: str, path: str) -> None:
    """An EMA teacher: equal at first, then on its own."""
    from prostate_mim.masked import masked_twin

    place = net_world(name)
    voxels = voxels_of(place, 1)
    twin = masked_twin(NETS[name].build().eval())
    teacher = deepcopy(twin)
    features = context_of(place).hide(voxels, path=path)
    before = as_dense(twin(features))
    assert same(as_dense(teacher(features)), before)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    assert same(as_dense(twin(features)), before)
    assert not same(as_dense(teacher(features)), before)


@pytest.mark.parametrize("path", PATHS)
def test_twin_follows_its_network(path: str) -> None:
    """An optimiser step on the network is one on the twin; so are train(), eval() and load_state_dict."""
    from prostate_mim.masked import masked_twin

    place, voxels = net_world("dynunet"), voxels_of(net_world("dynunet"), 1)
    network = NETS["dynunet"].build().eval()
    twin = masked_twin(network)
    before = as_dense(twin(context_of(place).hide(voxels, path=path)))
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    after = as_dense(twin(context_of(place).hide(voxels, path=path)))
    assert not same(after, before)
    network.load_state_dict(NETS["dynunet"].build().state_dict())
    assert same(as_dense(twin(context_of(place).hide(voxels, path=path))), before)


# ------------------------------------------------------------------------------------------------- shapes


class TwoStages(nn.Module):
    """A small two-stage network for large crops."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 2, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.InstanceNorm3d(2), nn.ReLU())
        self.second = nn.Sequential(nn.Conv3d(2, 3, 3, 2, 1), nn.GroupNorm(1, 3), nn.GELU())

    def forward(self, voxels: Any) -> list[Any]:
        """Features of both levels."""
        fine = self.first(voxels)
        return [fine, self.second(fine)]


@pytest.mark.parametrize(
    ("size", "block"),
    [
        ((20, 256, 256), (4, 16, 16)),
        ((20, 256, 256), (20, 32, 32)),
        ((19, 101, 67), (4, 16, 8)),
        ((1, 33, 17), (2, 4, 4)),
        ((7, 8, 9), (6, 12, 4)),
    ],
)
def test_sizes(size: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    """20x256x256, odd sizes, one slice, blocks larger than the crop: both paths equal, nothing hidden leaks."""
    grid = [-(-s // b) for s, b in zip(size, block, strict=True)]
    hidden = torch.rand(2, *grid, generator=torch.Generator().manual_seed(0)) < 0.7
    hidden.view(2, -1)[0, 0] = False
    place = World(hidden, block, size)
    visible = hidden.logical_not()[:, None]
    for axis, (s, b) in enumerate(zip(size, block, strict=True), 2):
        visible = visible.repeat_interleave(b, axis).narrow(axis, 0, s)
    network = scramble(TwoStages()).double()
    voxels = voxels_of(place, 1)
    dense, rows = (run(network, place, voxels, path) for path in PATHS)
    assert max(distance(a, b) for a, b in zip(rows, dense, strict=True)) < 1e-10
    assert [tuple(stage.shape) for stage in rows] == [tuple(stage.shape) for stage in network(voxels)]
    for path, before in zip(PATHS, (dense, rows), strict=True):
        assert same(run(network, place, disturbed(voxels, ~visible, float("nan")), path), before)


@pytest.mark.parametrize("path", PATHS)
def test_norms_of_a_chain_have_no_hidden_part(path: str) -> None:
    """The visible features of a sample do not depend on how much of ANOTHER sample is hidden (group norm)."""
    network = scramble(Chain(lambda c: nn.GroupNorm(2, c))).double()
    places = []
    for count in (1, 5):
        hidden = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
        hidden[0, 0, 0] = True
        hidden[1].view(-1)[:count] = True
        places.append(World(hidden, (2, 4, 4), (4, 8, 8)))
    voxels = voxels_of(places[0])[:2]
    first, second = (run(network, place, voxels, path)[0] for place in places)
    assert distance(first[0], second[0]) < 1e-12
    assert distance(first[1], second[1]) > 1e-6
    assert build("batch").training
