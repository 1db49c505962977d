"""Capsules: squashing, routing by agreement and the margin loss are the paper's; the map routes as the module does."""

from __future__ import annotations

import pytest
import torch

from stages.models.capsule import CapsuleNet, capsule_loss, lengths_of, margin_loss, route, squash
from stages.models.capsule_map import CapsuleMap
from stages.training.descent import Descent, descend, predict


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_squashing_keeps_the_direction_and_bounds_the_length() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    found = squash(vectors)
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8]) * 25.0 / 26.0)
    torch.testing.assert_close(found[1], torch.tensor([0.6, 0.8]) * 0.25 / 1.25)
    assert found[2].tolist() == [0.0, 0.0]
    zero = torch.zeros(2, requires_grad=True)
    lengths_of(squash(zero)).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_one_round_of_routing_shares_all_inputs_out_evenly() -> None:
    votes = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(route(votes, 1), squash(votes.sum(dim=2) / 3.0))


def test_inputs_go_where_their_votes_agree() -> None:
    # Inputs agree on class 0, and contradict one another on class 1.
    votes = torch.zeros(1, 2, 4, 2)
    votes[0, 0] = torch.tensor([1.0, 0.0])
    votes[0, 1] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    lengths = [lengths_of(route(votes, rounds))[0] for rounds in (1, 2, 3)]
    assert lengths[0][0] < lengths[1][0] < lengths[2][0]
    assert max(each[1] for each in lengths) < 0.01
    # By hand: 4 votes by half give (2, 0), of length 4/5; each vote of 1 then agrees by 0.8 with class 0, by 0 with 1.
    share = torch.tensor(0.8).exp() / (torch.tensor(0.8).exp() + 1.0)
    torch.testing.assert_close(lengths[1][0], (4 * share) ** 2 / (1 + (4 * share) ** 2), atol=1e-5, rtol=0)


def test_the_margin_loss_is_that_of_the_paper() -> None:
    lengths = torch.tensor([[0.95, 0.3, 0.05], [0.5, 0.05, 0.0]])
    # Right and long enough, 0.2 too long: half of 0.04; right but 0.4 too short: 0.16.
    assert margin_loss(lengths, torch.tensor([0, 0])).item() == pytest.approx((0.02 + 0.16) / 2)


def test_the_decoder_sees_the_capsule_of_the_class_only() -> None:
    network = CapsuleNet(1, 3, "4", size=(8, 8), types=2, side=3, stride=2, class_d=4, decoder=(8,))
    capsules, classes = torch.randn(2, 3, 4), torch.tensor([0, 2])
    drawn = network.reconstruct(capsules, classes)
    assert drawn.shape == (2, 1, 8, 8)
    other = capsules.clone()
    other[0, 1:] += 1.0
    other[1, :2] -= 1.0
    assert torch.equal(network.reconstruct(other, classes), drawn)
    other[0, 0] += 1.0
    assert not torch.equal(network.reconstruct(other, classes)[0], drawn[0])


def test_capsules_lie_above_any_stages() -> None:
    network = CapsuleNet(2, 3, "4 res6/2", size=(16, 12), types=3, d=5, side=3, class_d=4)
    # 14 x 10 places, then 7 x 5, then 3 x 2 of three types.
    assert network.votes.shape == (18, 5, 12)
    assert network.capsules(torch.rand(2, 2, 16, 12)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="images of 8 x 8 pixels are too small for these stages"):
        CapsuleNet(1, 3, "4 pool pool", size=(8, 8), side=5)


def crosses(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crosses, bars and frames, shifted a little, in noise."""
    draw = torch.Generator().manual_seed(seed)
    images, classes = 0.1 * torch.rand(count, 1, 10, 10, generator=draw), torch.arange(count) % 3
    places = torch.randint(1, 4, (count, 2), generator=draw).tolist()
    for image, kind, (row, col) in zip(images, classes, places, strict=True):
        shape = torch.zeros(6, 6)
        if kind == 0:
            shape[2:4], shape[:, 2:4] = 0.9, 0.9
        elif kind == 1:
            shape[2:4] = 0.9
        else:
            shape[[0, -1]], shape[:, [0, -1]] = 0.9, 0.9
        image[0, row : row + 6, col : col + 6] += shape
    return images, classes


def test_capsules_learn_what_is_shown_and_how_it_is_drawn() -> None:
    network = CapsuleNet(1, 3, "8", size=(10, 10), types=4, side=5, stride=2, class_d=8, decoder=(32,))
    images, classes = crosses(192, 0)
    before = (network.eval().reconstruct(network.capsules(images), classes) - images).square().mean()
    descend(network, images, classes, Descent(epochs=15, batch=32, lr=0.01), step=capsule_loss)  # type: ignore[arg-type]
    shown, expected = crosses(90, 1)
    lengths = predict(network, shown)
    assert (lengths.argmax(dim=1) == expected).double().mean() > 0.95
    assert lengths.gather(1, expected[:, None]).mean() > 0.8
    after = (network.eval().reconstruct(network.capsules(shown), expected) - shown).square().mean()
    assert after < 0.5 * before


def test_the_map_routes_the_votes_of_a_pixels_window_as_the_module_does() -> None:
    network = CapsuleMap(2, 3, width=4, dilations=(1,), types=2, d=4, window=3, spread=2, class_d=5).eval()
    assert network.rim == 3
    image = torch.randn(1, 3, 7, 7)
    image[:, -1] = 1.0
    with torch.no_grad():
        features = network.layers[0](image, torch.ones(1, 1, 5, 5))
        poses = squash(network.primary(features).reshape(2, 4, 5, 5), dim=1)
        votes = [
            vote[kind] @ poses[kind, :, row, col]
            for vote, (row, col) in zip(network.votes, network.places, strict=True)
            for kind in range(2)
        ]
        capsules = route(torch.stack([each.reshape(3, 5) for each in votes], dim=1)[None], rounds=3)
        found = network.of_patches(image)
    assert found.shape == (1, 3, 1, 1)
    shares = lengths_of(capsules)[0] ** 4.0
    torch.testing.assert_close(found.softmax(dim=1).flatten(), shares / shares.sum(), atol=1e-3, rtol=1e-3)
    assert found.softmax(dim=1).std() > 0.01


def test_a_pixel_of_which_nothing_is_seen_is_of_no_class_rather_than_another() -> None:
    network = CapsuleMap(2, 4, width=4, dilations=(1,)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 6, 6)).softmax(dim=1).unique().tolist() == [0.25]


def test_a_window_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 2, but must be odd"):
        CapsuleMap(2, 3, window=2)
