"""Planted copies are found, and memorising is told from learning."""

import pytest
import torch

from softmix.evaluate import memorisation, nearest

pytestmark = pytest.mark.usefixtures("on_device")


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_planted_copies_are_found_at_distance_zero():
    train, fake = images(500, 0), images(40, 1)
    fake[7], fake[31] = train[123], train[499]
    distance, index = nearest(fake, train)
    assert distance[7] == 0
    assert distance[31] == 0
    assert (index[7], index[31]) == (123, 499)
    others = [i for i in range(40) if i not in (7, 31)]
    assert distance[others].min() > 0.1


def test_every_answer_is_that_of_the_definition():
    train, fake = images(60, 2), images(9, 3)
    apart = (fake[:, None].double() - train[None].double()).square().flatten(2).mean(2).sqrt()
    found = nearest(fake, train)
    torch.testing.assert_close(found.distance, apart.min(1).values.cpu(), rtol=1e-12, atol=0)
    assert torch.equal(found.train_index, apart.argmin(1).cpu())


def test_units_are_those_of_x0():
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert nearest(black, white).distance.item() == 2
    assert nearest(black, black + 0.25).distance.item() == 0.25


def test_the_chunk_does_not_matter():
    train, fake = images(100, 4), images(33, 5)
    whole = nearest(fake, train)
    for chunk in (1, 7, 50):
        part = nearest(fake, train, chunk)
        assert torch.equal(part.train_index, whole.train_index)
        assert torch.equal(part.distance, whole.distance)


def test_fresh_samples_of_the_law_are_as_near_as_unseen_data():
    result = memorisation(images(1000, 6), images(400, 7), images(1000, 8))
    assert result.ratio == pytest.approx(1, abs=0.02)
    assert result.copied < 0.03


def test_noisy_copies_are_nearer_and_noise_is_farther():
    train, unseen = images(400, 9), images(400, 10)
    copies = memorisation(train + 0.1 * images(400, 11), train, unseen)
    assert copies.ratio < 0.2
    assert copies.copied == 1
    assert copies.ratio == copies.generated / copies.held_out
    assert memorisation(3 * images(400, 12), train, unseen).ratio > 1.5


def test_a_few_copies_show_though_the_median_does_not_move():
    train, unseen, fake = images(400, 13), images(400, 14), images(400, 15)
    fake[:40] = train[:40]
    result = memorisation(fake, train, unseen)
    assert result.ratio > 0.95
    assert 0.1 <= result.copied < 0.14


def test_a_yardstick_of_zero_is_refused():
    train = images(20, 16)
    with pytest.raises(ValueError, match="not trained on"):
        memorisation(images(20, 17), train, train)


def test_a_bad_training_image_is_named_by_its_number():
    train = images(20, 18)
    train[13, 0, 2, 2] = torch.inf
    with pytest.raises(ValueError, match="item 13 of the training set"):
        nearest(images(4, 19), train, chunk=5)
    with pytest.raises(ValueError, match="36 and 18 numbers"):
        nearest(images(4, 19), images(4, 19)[..., :3])
