"""The layers and the nearest training images of a run; images of classes; the points of an embedding."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client
from werkzeug.wrappers import Response

from digitlab.data.sampling import spread_evenly
from digitlab.explain import class_images
from digitlab.explain.embedding import embed, panels
from digitlab.explain.neighbours import nearest_training_images
from digitlab.explain.network import as_floats, outputs_of
from digitlab.explain.projector import class_cell, most_points, sprite, write_projector_files


def test_the_last_hidden_layer_gives_the_logits_through_the_last_dense_layer(lenet):
    images = lenet.data.test_set.images[:5]
    hidden = lenet.hidden(images)
    assert hidden.shape == (5, 84)
    with torch.no_grad():
        torch.testing.assert_close(lenet.network.network.output(hidden), lenet.network(images))


def test_pixels_in_bytes_and_in_floats_give_the_same_logits(lenet):
    images = lenet.data.test_set.images[:5]
    with torch.no_grad():
        torch.testing.assert_close(lenet.network(as_floats(images)), lenet.classifier(images), rtol=1e-4, atol=1e-4)


def test_the_nearest_training_image_of_a_training_image_is_itself(lenet):
    chosen = lenet.data.train_indices[:20]
    found = nearest_training_images(lenet, lenet.data.train_set.images[chosen], count=3)
    assert found.candidates == 3000
    assert found.indices[:, 0].tolist() == chosen.tolist()
    torch.testing.assert_close(found.similarities[:, 0], torch.ones(20))
    assert (found.similarities.diff(dim=1) <= 0).all()


def test_few_candidates_are_spread_evenly_over_the_training_images(lenet, monkeypatch):
    assert spread_evenly(torch.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert spread_evenly(torch.arange(3), 5).tolist() == [0, 1, 2]
    monkeypatch.setattr("digitlab.explain.neighbours._MOST_CANDIDATES", 4)
    assert nearest_training_images(lenet, lenet.data.test_set.images[:1], count=9).indices.shape == (1, 4)


def test_outputs_of_the_first_convolution_are_its_convolution_of_the_normalised_image(lenet):
    pixels = as_floats(lenet.data.test_set.images[:1])
    (name, layer), *_ = lenet.convolutions.items()
    found = outputs_of(lenet, {name: layer}, pixels)[name]
    expected = torch.nn.functional.conv2d(lenet.network.normalise(pixels), layer.weight, layer.bias, padding=2)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_images_of_classes_convince_the_network_and_are_smoother_than_without_regularisers(lenet, monkeypatch):
    def made():
        return class_images.class_images(lenet.network, empty=torch.zeros(1), size=(28, 28), classes=10)

    monkeypatch.setattr(class_images, "_STEPS", 40)
    images = made()
    assert images.shape == (10, 1, 28, 28)
    assert 0 <= images.min() <= images.max() <= 1
    assert lenet.scores(images).argmax(1).tolist() == list(range(10))
    for name, value in (("_VARIATION", 0.0), ("_CONTENT", 0.0), ("_SHIFT_PIXELS", 0), ("_BLUR_EVERY", 1000)):
        monkeypatch.setattr(class_images, name, value)
    rough = made()
    assert images.diff(dim=2).abs().mean() < 0.5 * rough.diff(dim=2).abs().mean()


def test_the_first_panel_is_the_plane_of_largest_variance(lenet):
    hidden = lenet.hidden(lenet.data.test_set.images[:60])
    pca, tsne = panels(hidden)
    centred = (hidden - hidden.mean(0)).double()
    variances = torch.linalg.svdvals(centred)[:2] ** 2
    torch.testing.assert_close((pca.points**2).sum(0), variances, rtol=1e-5, atol=1e-5)
    share = 100 * variances[0] / (centred**2).sum()
    assert f"({share:.0f} % of the variance)" in pca.axis_labels[0]
    assert tsne.points.shape == (60, 2)
    # A pair of equal vectors stays together.
    twins = panels(torch.cat([hidden, hidden[:1]]))[1].points
    others = (twins[1:-1] - twins[0]).norm(dim=1)
    assert (twins[-1] - twins[0]).norm() < others.median()


def test_an_untested_run_is_embedded_on_its_validation_images(mlp):
    embedding = embed(mlp, most=50)
    assert set(embedding.numbers.tolist()) <= set(mlp.data.val_indices.tolist())


def test_a_sprite_is_nearly_square_and_holds_the_images_row_by_row():
    tiles = np.arange(7 * 2 * 3 * 3, dtype=np.uint8).reshape(7, 2, 3, 3)
    picture = sprite(tiles)
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 3
    assert rows * columns >= 7
    for number in range(7):
        top, left = 2 * (number // columns), 3 * (number % columns)
        assert (picture[top : top + 2, left : left + 3] == tiles[number]).all()
    assert most_points((28, 32)) == (8192 // 28) * (8192 // 32)


def test_the_projectors_table_has_a_text_for_every_class():
    names = {"7": "class 7", "-1.5": "class -1.5", "a\tcat\n": "a cat", "none": "none"}
    assert [class_cell(name) for name in names] == list(names.values())


@pytest.fixture
def projector(lenet, lenet_folder):
    """TensorBoard's projector on the folder of the run, with the files that digitlab wrote."""
    embedding = embed(lenet, most=100)
    write_projector_files(lenet, embedding)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(lenet_folder.parent))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(lenet_folder.parent))
    plugin = ProjectorPlugin(TBContext(data_provider=provider, logdir=str(lenet_folder.parent)))

    def get(route, **arguments):
        answer = Client(plugin.get_plugin_apps()[route], Response).get("/", query_string=arguments)
        assert answer.status_code == 200, answer.data
        return answer

    return embedding, get


def test_tensorboard_loads_the_vectors_labels_and_sprite_of_the_projector(lenet, projector):
    embedding, get = projector
    assert get("/runs").json == ["run"]
    (info,) = get("/info", run="run").json["embeddings"]
    assert info["tensorShape"] == [100, 84]
    assert info["sprite"]["singleImageDim"] == [28, 28]
    name = info["tensorName"]
    vectors = np.frombuffer(get("/tensor", run="run", name=name).data, np.float32).reshape(100, 84)
    np.testing.assert_allclose(vectors, embedding.hidden.numpy(), rtol=1e-4, atol=1e-4)
    header, *rows = get("/metadata", run="run", name=name).data.decode().splitlines()
    assert header.split("\t")[:2] == ["label", "predicted"]
    # TensorBoard names points by the first column with text. A digit alone is a number, so "class" is in front of it.
    assert [row.split("\t")[0] for row in rows] == [
        f"class {lenet.class_names[label]}" for label in embedding.labels.tolist()
    ]
    assert {row.split("\t")[1] for row in rows} <= {f"class {name}" for name in lenet.class_names}
    assert get("/sprite_image", run="run", name=name).data.startswith(b"\x89PNG")
