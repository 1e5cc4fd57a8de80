"""The loader yields every image once in an epoch; order and random numbers depend only on (seed, epoch, step)."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from digitlab.data import chunks, pace
from digitlab.data.augment import Compose, MixUp, Noise
from digitlab.data.chunks import ChunkLoader, ChunkPlan, Position
from digitlab.data.evaluation import EvaluationLoader
from digitlab.data.normalise import Normalise
from digitlab.data.source import ImageSet

PLAN = ChunkPlan(seed=0, batch_size=8, chunk_length=3)


def numbered(count, shape=(1, 4, 4)):
    """Noise images whose labels are their numbers, so that a test can follow each image."""
    pixels = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count))


def loader(count=103, *, plan=PLAN, position=None, augment=(), images=None, indices=None):
    images = numbered(count) if images is None else images
    indices = torch.arange(len(images.labels)) if indices is None else indices
    return ChunkLoader(
        images=images, indices=indices, augment=Compose(augment), classes=len(images.labels), plan=plan,
        position=position or Position(),
    )  # fmt: skip


def sizes(loader):
    return [len(index) for chunk in loader for index in chunk.indices]


def order(loader):
    return [int(image) for chunk in loader for index in chunk.indices for image in index]


def minibatches(loader):
    """The mini-batches that the training step gets: (images in [0, 1], targets, labels, weight)."""
    shape = loader.images.images.shape[1:]
    unit = Normalise(image_shape=shape, mean=[0.0] * shape[0], std=[1.0] * shape[0])
    return [
        (images, targets, labels, weight)
        for chunk in loader
        for (images, targets, weight), labels in zip(
            chunk.minibatches(unit, lambda targets, _: targets),
            chunk.labels.split([len(share) for share in chunk.rank_indices]),
            strict=True,
        )
    ]


@given(count=st.integers(1, 200), batch_size=st.integers(1, 40), length=st.integers(1, 50), epoch=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_each_image_occurs_once_in_an_epoch(count, batch_size, length, epoch):
    plan = ChunkPlan(seed=0, batch_size=batch_size, chunk_length=length)
    indices = 2 * torch.arange(count) + 1
    epoch_loader = loader(plan=plan, position=Position(epoch=epoch), images=numbered(2 * count), indices=indices)
    assert sorted(order(epoch_loader)) == indices.tolist()
    batch_sizes = sizes(epoch_loader)
    assert batch_sizes[:-1] == [batch_size] * (len(batch_sizes) - 1)
    assert len(batch_sizes) == plan.steps_per_epoch(count)
    # No mini-batch has a single image, from which batch norm cannot learn, unless that is unavoidable.
    assert batch_sizes[-1] > 1 or batch_size == 1 or count == 1


@pytest.mark.parametrize(
    ("count", "world_size", "last"),
    [(103, 1, 7), (97, 1, 9), (98, 1, 2), (96, 1, 8), (99, 2, 11), (100, 2, 4), (5, 1, 5)],
)
def test_a_remainder_too_small_for_batch_norm_joins_the_previous_batch(count, world_size, last):
    assert sizes(loader(count, plan=replace(PLAN, world_size=world_size)))[-1] == last


def test_the_order_depends_only_on_seed_and_epoch():
    def of(seed, epoch):
        torch.manual_seed(epoch + 7)
        return order(loader(plan=replace(PLAN, seed=seed), position=Position(epoch=epoch, total_steps=13 * epoch)))

    orders = {(seed, epoch): of(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert all(of(*key) == found for key, found in orders.items())
    assert all(one != other for one, other in itertools.combinations(orders.values(), 2))


def test_the_global_generator_is_not_used():
    state = torch.get_rng_state()
    minibatches(loader(augment=[Noise(), MixUp()]))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("step", [0, 1, 3, 12, 13])
def test_an_epoch_resumes_at_its_position(step):
    whole = minibatches(loader(augment=[Noise()]))
    rest = minibatches(loader(augment=[Noise()], position=Position(step=step, total_steps=step)))
    assert len(rest) == len(whole) - step
    for one, other in zip(rest, whole[step:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("augment", [[], [Noise()], [MixUp()]], ids=["plain", "noise", "mixup"])
@pytest.mark.parametrize("bytes_at_once", [0, 2000, 1 << 20])
def test_chunk_length_and_gathering_do_not_change_a_mini_batch(monkeypatch, augment, bytes_at_once):
    expected = minibatches(loader(augment=augment, plan=replace(PLAN, chunk_length=1)))
    monkeypatch.setattr(chunks, "_BYTES_AT_ONCE", bytes_at_once)
    for length in (1, 5, 32):
        found = minibatches(loader(augment=augment, plan=replace(PLAN, chunk_length=length)))
        for one, other in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_a_mini_batch_has_the_images_at_its_indices():
    images = numbered(50, shape=(3, 8, 8))
    for pixels, targets, labels, weight in minibatches(loader(images=images)):
        torch.testing.assert_close(pixels, images.images[labels] / 255)
        assert torch.equal(targets, labels)
        assert weight == 1


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 13),
        ({"limit_train_batches": 5}, 5),
        ({"limit_train_batches": 100}, 13),
        ({"max_steps": 20}, 7),
        ({"max_steps": 13}, 0),
        ({"max_steps": 100}, 13),
    ],
)
@pytest.mark.parametrize("length", [1, 3, 32])
def test_limits_count_mini_batches(limits, expected, length):
    # The second epoch, after 13 mini-batches, or fewer if the first one was limited.
    done = min(13, limits.get("limit_train_batches", 13))
    position = Position(epoch=1, total_steps=done)
    assert len(sizes(loader(plan=replace(PLAN, chunk_length=length, **limits), position=position))) == expected


def test_limited_mini_batches_are_the_first_of_the_epoch():
    for count, limit in itertools.product((97, 103), (1, 5, 12, 13, 99)):
        limited = loader(count, plan=replace(PLAN, limit_train_batches=limit))
        assert [index.tolist() for index in limited.batches(2)] == [
            index.tolist() for index in loader(count).batches(2)[:limit]
        ]


@pytest.mark.parametrize("length", [1, 3, 32])
def test_a_chunk_ends_when_validation_is_due(length):
    plan = replace(PLAN, chunk_length=length, val_every_steps=4)
    found = list(loader(plan=plan, position=Position(epoch=1, total_steps=13)))
    ends = [13 + chunk.step + len(chunk.indices) for chunk in found if chunk.validate]
    # After 16, 20 and 24 mini-batches of the run, and after the last of the epoch.
    assert ends == [16, 20, 24, 26]
    assert [chunk.last for chunk in found] == [False] * (len(found) - 1) + [True]


def test_a_validation_inside_an_epoch_does_not_count_as_time_of_a_chunk(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    lengths = []
    for chunk in loader(1000, plan=replace(PLAN, batch_size=1, chunk_length=None, val_every_steps=64)):
        lengths.append(len(chunk.indices))
        # A chunk takes about as long as it should, so the first length, 32, stays.
        clock[0] += 10.15 if chunk.validate else 0.15
    assert lengths == [32] * 31 + [8]


@given(count=st.integers(4, 100), batch_size=st.integers(4, 40), world_size=st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_processes_share_each_mini_batch_and_weight_their_means(count, batch_size, world_size):
    plans = [
        ChunkPlan(seed=0, batch_size=batch_size, chunk_length=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    whole = [index for chunk in loader(count, plan=plans[0]) for index in chunk.indices]
    shared = zip(*(minibatches(loader(count, plan=plan)) for plan in plans), strict=True)
    for index, rank_indices in zip(whole, shared, strict=True):
        labels = [labels for _, _, labels, _ in rank_indices]
        assert sorted(torch.cat(labels).tolist()) == sorted(index.tolist())
        assert min(map(len, labels)) >= 2
        # DDP averages over the processes; with the weights, this is the mean over the whole mini-batch.
        mean = sum(weight * float(own.double().mean()) for _, _, own, weight in rank_indices) / world_size
        assert mean == pytest.approx(float(index.double().mean()))


def noise_of(*, seed=0, epoch=0, step=0, rank=0):
    """The noise that one of two processes adds to its four copies of one grey image, (4, 1, 4, 4)."""
    grey = ImageSet(torch.full((16, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(16))
    plan = ChunkPlan(seed=seed, batch_size=8, chunk_length=32, rank=rank, world_size=2)
    found = minibatches(loader(images=grey, plan=plan, position=Position(epoch=epoch), augment=[Noise()]))
    return found[step][0] - 128 / 255


def test_augmentation_is_a_function_of_seed_epoch_step_and_process():
    places = [{}, {"seed": 1}, {"epoch": 1}, {"step": 1}, {"rank": 1}]
    draws = [noise_of(**place) for place in places]
    assert all(torch.equal(noise_of(**place), draw) for place, draw in zip(places, draws, strict=True))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(draws, 2))


def test_each_image_of_a_mini_batch_has_its_own_draw():
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(noise_of(), 2))


def test_augmented_images_are_from_0_to_1_and_targets_may_be_mixed():
    for pixels, targets, labels, _ in minibatches(loader(20, augment=[Noise(), MixUp(alpha=1.0)])):
        assert pixels.is_floating_point()
        assert 0 <= pixels.min() <= pixels.max() <= 1
        assert targets.shape == (len(pixels), 20)
        torch.testing.assert_close(targets.sum(1), torch.ones(len(pixels)))
        assert labels.dtype == torch.int64
        assert (targets * F.one_hot(labels, 20)).sum(1).min() > 0


def unit_for(images):
    channels = images.images.shape[1]
    return Normalise(image_shape=images.images.shape[1:], mean=[0.0] * channels, std=[1.0] * channels)


@pytest.mark.parametrize("whole_blocks", [False, True], ids=["mini-batches", "blocks"])
def test_a_mixed_image_counts_as_the_class_with_the_larger_weight(whole_blocks):
    # Chunks have three mini-batches, and 96 images fill all of them.
    own = loader(96, augment=[MixUp(alpha=1.0)])
    for chunk in own:
        if whole_blocks:
            found = [targets.flatten(0, 1) for _, targets in chunk.blocks(len(chunk.indices), lambda each, _: each)]
        else:
            found = [targets for _, targets, _ in chunk.minibatches(unit_for(own.images), lambda each, _: each)]
        weights = torch.cat(found)
        labels = chunk.learnt_labels()
        largest = weights.gather(1, labels[:, None]).flatten()
        assert (largest >= 0.5).all()
        assert (largest >= weights.max(1).values).all()
        # With weights that are uniform in [0, 1], about half of the images are mostly their partner.
        assert (labels != chunk.labels).any()
        assert (labels == chunk.labels).any()


def test_parts_of_a_chunk_tell_the_whole_chunk_which_labels_were_mixed():
    whole, cut = (next(iter(loader(96, augment=[MixUp(alpha=1.0)]))) for _ in range(2))
    unit = unit_for(whole.images)
    list(whole.minibatches(unit, lambda each, _: each))
    list(cut.part(0, 1).minibatches(unit, lambda each, _: each))
    # The mini-batches that were not learnt, for example after a signal, keep their own labels.
    assert torch.equal(cut.learnt_labels()[:8], whole.learnt_labels()[:8])
    assert torch.equal(cut.learnt_labels()[8:], whole.labels[8:])
    list(cut.part(1, 3).minibatches(unit, lambda each, _: each))
    assert torch.equal(cut.learnt_labels(), whole.learnt_labels())


def test_without_mixing_the_learnt_labels_are_those_of_the_images():
    for chunk in loader(50, augment=[Noise()]):
        list(chunk.minibatches(unit_for(chunk.images), lambda each, _: each))
        assert torch.equal(chunk.learnt_labels(), chunk.labels)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 100])
def test_evaluation_yields_the_images_in_order(batch_size):
    images, indices = numbered(50), torch.arange(50)[::2][:20]
    evaluation = EvaluationLoader(images=lambda: images, indices=indices, batch_size=batch_size)
    batches = list(evaluation)
    assert len(batches) == len(evaluation)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), indices)
    assert torch.equal(torch.cat([batch.images for batch in batches]), images.images[indices])
