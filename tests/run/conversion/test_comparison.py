"""Two networks on the same images."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.finite import NotFiniteError
from groupnorm.run.conversion.comparison import check_classes, check_outputs, compare
from tests.tolerances import FOUR_DIGITS


class Scores(nn.Module):
    """The first K values of an image, plus a constant; it has one parameter and one buffer."""

    def __init__(self, classes=3, added=0.0, wrap=lambda x: x):
        super().__init__()
        self.added = nn.Parameter(torch.tensor(added))
        self.register_buffer("used", torch.ones(2))
        self.classes, self.wrap = classes, wrap

    def forward(self, x):
        assert not self.training
        return self.wrap(x.flatten(1)[:, : self.classes] + self.added)


def batches(*sizes, labels=None):
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        yield torch.randn(size, 3, 2, 2, generator=generator), labels


def test_equal_networks_agree():
    found = compare(Scores(), Scores(), batches(4, 2))
    assert (found.images, found.agreement, found.accuracy) == (6, 1.0, None)
    assert (found.output_error, found.largest_difference) == (0.0, 0.0)
    assert (found.parameters, found.buffers) == ((1, 1), (2, 2))
    assert min(found.milliseconds) > 0


def test_what_differs_is_measured():
    before, after = Scores(), Scores(wrap=lambda x: -x)
    found = compare(before, after, batches(8, 8))
    outputs = torch.cat([x.flatten(1)[:, :3] for x, _ in batches(8, 8)]).double()
    error = 4 * outputs.square().sum() / (outputs - outputs.mean(0)).square().sum()
    assert found.output_error == pytest.approx(float(error), abs=FOUR_DIGITS)
    assert found.largest_difference == pytest.approx(2 * float(outputs.abs().max()))
    assert found.largest_output == pytest.approx(float(outputs.abs().max()))
    agreeing = outputs.argmax(1) == (-outputs).argmax(1)
    assert found.agreement == pytest.approx(float(agreeing.double().mean()))


def test_accuracy_follows_from_labels():
    images = torch.eye(3).repeat(4, 1).reshape(12, 3, 1, 1)
    labels = torch.arange(3).repeat(4)
    found = compare(Scores(), Scores(wrap=lambda x: x.roll(1, 1)), [(images, labels)])
    assert found.accuracy == (1.0, 0.0)
    assert found.agreement == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"boxes": x},
        lambda x: [x[:, 0], x],
        lambda x: x[:, :1],
        lambda x: {"out": [x]},
        lambda x: x[:, :, None],  # as tokens (N, T, D)
    ],
)
def test_outputs_without_scores_of_classes_have_an_error_alone(wrap):
    found = compare(Scores(wrap=wrap), Scores(added=0.5, wrap=wrap), batches(4, 3))
    assert (found.agreement, found.accuracy) == (None, None)
    assert found.largest_difference == pytest.approx(0.5)
    assert found.output_error > 0


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"aux": -x, "out": x}])
def test_maps_agree_by_position(wrap):
    class Maps(Scores):
        def forward(self, x):
            return self.wrap(x + self.added * torch.arange(3).view(1, 3, 1, 1))

    before, after = Maps(wrap=wrap), Maps(added=0.5, wrap=wrap)
    found = compare(before, after, batches(4, 3))
    x = torch.cat([x for x, _ in batches(4, 3)])
    moved = x + 0.5 * torch.arange(3).view(1, 3, 1, 1)
    assert found.agreement == pytest.approx(float((x.argmax(1) == moved.argmax(1)).double().mean()))
    assert 0 < found.agreement < 1
    assert found.scores == (3, 2, 2)
    assert compare(Scores(), Scores(), batches(2)).scores == (3,)


def test_the_layer_and_the_image_of_an_output_that_is_not_finite_are_named():
    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    network = nn.Sequential(nn.Flatten(), Logarithm(), nn.Linear(12, 2))
    images = [(torch.ones(4, 3, 2, 2), None) for _ in range(2)]
    assert compare(network, network, images).images == 8
    images[1][0][2, 0] = -1
    words = r"the output of 1 \(Logarithm\) in the converted network .* first for sample 6"
    with pytest.raises(NotFiniteError, match=words) as raised:
        compare(Scores(classes=2), network, images)
    assert raised.value.sample == 6
    words = r"the output of 1 \(Logarithm\) in the network .* first for sample 6"
    with pytest.raises(NotFiniteError, match=words):
        check_outputs(network, [x for x, _ in images], "cpu")
    check_outputs(network, [images[0][0]], "cpu")


def test_outputs_of_other_shapes_cannot_be_compared():
    found = compare(Scores(), Scores(classes=4), batches(4))
    assert (found.output_error, found.largest_difference, found.largest_output) == (None,) * 3
    boxes = Scores(wrap=lambda x: x[: int((x[:, 0] > 0).sum())])
    found = compare(boxes, Scores(added=1.0, wrap=boxes.wrap), batches(8))
    assert found.output_error is None
    by_batch = Scores(wrap=lambda x: x[:, : len(x), None])
    assert compare(by_batch, by_batch, batches(2, 3)).output_error is None


def test_the_networks_are_left_as_they_were_and_no_images_are_an_error():
    before, after = Scores().train(), Scores().eval()
    compare(before, after, batches(2))
    assert (before.training, after.training) == (True, False)
    with pytest.raises(ValueError, match="no images to compare"):
        compare(before, after, [])


def test_classes_have_an_output_each():
    ((images, _),) = batches(4)
    check_classes(Scores(), images, ["a", "b", "c"], "cpu")
    with pytest.raises(ValueError, match=r"has 2 classes \(a, b\); expected the output \(2, 2\)"):
        check_classes(Scores(), images, ["a", "b"], "cpu")
    check_classes(Scores(wrap=lambda x: {"logits": x}), images, ["a", "b", "c"], "cpu")
    with pytest.raises(ValueError, match="got dict of boxes"):
        check_classes(Scores(wrap=lambda x: {"boxes": x}), images, ["a", "b", "c"], "cpu")
