"""NT-Xent by hand, by another formula, and by its laws; alignment and uniformity; what collapse looks like."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prostate_mim.contrastive import alignment, uniformity, view_losses, views_matched

X, Y = (1.0, 0.0), (0.0, 1.0)


def rows(*vectors: tuple[float, ...]) -> Tensor:
    return torch.tensor(vectors, dtype=torch.float64)


def nt_xent(first: Tensor, second: Tensor, temperature: float, owners: Tensor | None = None) -> Tensor:
    """The mean of ``view_losses`` over N pairs, row n of both (N, P); every pair another's if no owners are given."""
    views = torch.stack([first, second], 1).flatten(0, 1)
    own = torch.arange(len(first)) if owners is None else owners
    losses, counted = view_losses(views, own.repeat_interleave(2), temperature)
    return losses.sum() / counted.sum().clamp(min=1)


def by_definition(first: Tensor, second: Tensor, temperature: float, owners: list[int]) -> float:
    """Equation 1 of Chen et al. 2020 in plain Python, one term after the other; other views of one owner left out."""
    views = [(*first[n].tolist(),) for n in range(len(first))] + [(*second[n].tolist(),) for n in range(len(first))]
    whose, count, losses = owners * 2, len(first), []

    def similar(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = [k for k in range(2 * count) if whose[k] != whose[i]]
        if others:
            terms = [math.exp(similar(views[i], views[k]) / temperature) for k in [partner, *others]]
            losses.append(-math.log(terms[0] / sum(terms)))
    return sum(losses) / max(1, len(losses))


def test_by_hand() -> None:
    """Pairs (x, x) and (y, y), t = 1: each view has its partner at cosine 1 and two others at 0."""
    loss = nt_xent(rows(X, Y), rows(X, Y), 1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-12)
    # Pairs (x, y) and (y, x): the partner is at 0, one other at 1, one at 0.
    crossed = nt_xent(rows(X, Y), rows(Y, X), 1.0)
    assert crossed.item() == pytest.approx(-math.log(1 / (2 + math.e)), abs=1e-12)
    # At t = 1/2 cosines count twice.
    assert nt_xent(rows(X, Y), rows(X, Y), 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 5.0), st.integers(0, 10_000), st.integers(1, 6))
def test_equals_the_definition(count: int, width: int, temperature: float, seed: int, patients: int) -> None:
    """For any vectors, temperature and patients."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    owners = torch.randint(patients, (count,), generator=generator)
    found = nt_xent(first, second, temperature, owners)
    assert found.item() == pytest.approx(by_definition(first, second, temperature, owners.tolist()), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_laws(count: int, seed: int) -> None:
    """Lengths, the order of pairs and of the two views do not matter; it is no less than 0."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    loss, order = nt_xent(first, second, 0.2), torch.randperm(count, generator=generator)
    for other in (
        nt_xent(first * 7, second * 0.1, 0.2),
        nt_xent(second, first, 0.2),
        nt_xent(first[order], second[order], 0.2),
    ):
        assert other.item() == pytest.approx(loss.item(), rel=1e-9)
    assert loss >= 0
    assert nt_xent(first, second.flip(0), 0.2).item() != pytest.approx(loss.item(), rel=1e-9) or count < 2  # control


def test_gradient() -> None:
    """Against finite differences."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    owners = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3, owners), (first, second))


def test_a_patient_is_no_counter_example_to_itself() -> None:
    """The third pair is of the first one's patient and looks just like it: it changes nothing for the first."""
    first, second = rows(X, Y), rows(X, Y)
    views = torch.stack([first, second], 1).flatten(0, 1)
    alone, _ = view_losses(views, torch.tensor([0, 0, 1, 1]), 0.2)
    more = torch.cat([views, rows(X, X)])
    kept, _ = view_losses(more, torch.tensor([0, 0, 1, 1, 0, 0]), 0.2)
    assert torch.allclose(kept[:2], alone[:2])
    control, _ = view_losses(more, torch.tensor([0, 0, 1, 1, 2, 2]), 0.2)
    assert not torch.allclose(control[:2], alone[:2])


def test_autocast_does_not_round_it() -> None:
    """Bit for bit the loss without it; a product in bfloat16 (the control) is rounded."""
    views, owners = torch.randn(8, 16, generator=torch.Generator().manual_seed(2)), torch.arange(4).repeat_interleave(2)
    plain = view_losses(views, owners, 0.2)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view_losses(views, owners, 0.2)[0], plain)
        assert (views @ views.T).dtype == torch.bfloat16


def test_nothing_to_compare_is_no_loss() -> None:
    """One patient alone: loss 0, gradient 0, nothing counted."""
    views = torch.randn(4, 3, requires_grad=True)
    losses, counted = view_losses(views, torch.zeros(4, dtype=torch.long), 0.2)
    losses.sum().backward()
    assert not counted.any() and losses.abs().max() < 1e-6
    assert views.grad is not None and views.grad.abs().max() < 1e-6


def test_parts_are_parts_of_the_whole() -> None:
    """Anchors of one process against the views of all: a slice of the losses of all."""
    views, owners = torch.randn(8, 3, dtype=torch.float64), torch.arange(4).repeat_interleave(2)
    whole, counted = view_losses(views, owners, 0.2)
    part, own = view_losses(views, owners, 0.2, slice(2, 6))
    assert torch.allclose(part, whole[2:6]) and torch.equal(own, counted[2:6])


def test_matching_by_hand() -> None:
    """X twice and y twice are matched; crossed pairs are not; a tie is no match; chance is one of three."""
    owners = torch.tensor([0, 0, 1, 1])
    share, chance = views_matched(rows(X, X, Y, Y), owners)
    assert (share.item(), chance.item()) == (1.0, pytest.approx(1 / 3))
    assert views_matched(rows(X, Y, Y, X), owners)[0].item() == 0
    assert views_matched(rows(X, X, X, X), owners)[0].item() == 0


def test_alignment_and_uniformity_by_hand() -> None:
    """Same: 0; at right angles: 2; opposite: 4. Two opposite owners: squared distance 4, so log exp(-8)."""
    assert alignment(rows(X, X)).item() == 0
    assert alignment(rows(X, Y)).item() == pytest.approx(2)
    assert alignment(rows(X, (-3.0, 0.0))).item() == pytest.approx(4)
    owners = torch.tensor([0, 0, 1, 1])
    assert uniformity(rows(X, X, (-1.0, 0.0), (-1.0, 0.0)), owners).item() == pytest.approx(-8)
    assert uniformity(rows(X, X, Y, Y), owners).item() == pytest.approx(-4)
    assert uniformity(rows(X, X, X, X), owners).item() == pytest.approx(0)
    half = uniformity(rows(X, X, Y, X), owners).item()  # view pairs between owners: two at 2, two at 0
    assert half == pytest.approx(math.log((math.exp(-4) + 1) / 2))


def test_collapse_is_seen() -> None:
    """One vector for all: perfect alignment, uniformity 0, nothing matched, and the loss of guessing, log(2N - 1)."""
    views, owners = torch.ones(12, 5), torch.arange(6).repeat_interleave(2)
    assert alignment(views).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(views, owners).item() == pytest.approx(0, abs=1e-5)
    assert views_matched(views, owners)[0].item() == 0
    losses, _ = view_losses(views, owners, 0.2)
    assert losses.mean().item() == pytest.approx(math.log(11), rel=1e-5)


@pytest.mark.parametrize(("repelled", "spread"), [(True, True), (False, False)])
def test_counter_examples_prevent_collapse(repelled: bool, spread: bool) -> None:
    """Free vectors that nearly coincide: NT-Xent drives owners apart; alignment alone (the control) leaves them so."""
    generator = torch.Generator().manual_seed(1)
    views = torch.tensor([1.0, 0, 0]) + 0.05 * torch.randn(12, 3, generator=generator)
    views.requires_grad_()
    owners = torch.arange(6).repeat_interleave(2)
    optimizer = torch.optim.SGD([views], lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = view_losses(views, owners, 0.2)[0].mean() if repelled else alignment(views)
        loss.backward()
        optimizer.step()
    assert (uniformity(views.detach(), owners).item() < -1.5) == spread
    assert (views_matched(views.detach(), owners)[0].item() > 0.9) or not repelled
