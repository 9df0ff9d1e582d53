"""Accuracy of videos over their clips, and of one clip of each."""

import math

import pytest
import torch

from groupnorm.data.video.clips import VideoClips
from groupnorm.training.evaluation import clips as evaluation
from groupnorm.training.evaluation.clips import clip_accuracies
from tests.tolerances import STEP

CPU = torch.device("cpu")


def logits_of(shares):
    """(B, K) probabilities -> their logits."""
    return torch.tensor(shares).log()


def batch(shares, videos, middle, labels):
    return VideoClips(
        logits_of(shares), torch.tensor(videos), torch.tensor(middle), torch.tensor(labels)
    )


def test_the_softmax_is_averaged_and_not_the_logits():
    """Two unsure clips against a sure one: the averages of logits and of votes say otherwise."""
    shares = [[0.998, 0.001, 0.001], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3]]
    logits = logits_of(shares)
    assert logits.argmax(1).tolist() == [0, 1, 1]
    found = clip_accuracies(lambda x: x, [batch(shares, [0, 0, 0], [1], [0])], CPU)
    assert found["val_accuracy"] == 100.0
    assert found["one_clip_accuracy"] == 0.0
    assert found["val_loss"] == pytest.approx(-math.log((0.998 + 0.6) / 3), rel=STEP)
    sure = [[0.01, 0.99], [0.01, 0.99], [1 - 1e-12, 1e-12]]
    averaged = logits_of(sure).mean(0)
    assert int(averaged.argmax()) == 0
    found = clip_accuracies(lambda x: x, [batch(sure, [0, 0, 0], [2], [1])], CPU)
    assert (found["val_accuracy"], found["one_clip_accuracy"]) == (100.0, 0.0)


def test_videos_of_different_numbers_of_clips_however_they_are_batched():
    generator = torch.Generator().manual_seed(0)
    counts, classes = [3, 1, 2, 4, 3, 3], 8
    logits = [torch.randn(count, classes, generator=generator) for count in counts]
    labels = torch.randint(0, classes, (6,), generator=generator)
    shares = torch.stack([of_video.softmax(1).mean(0) for of_video in logits])
    middles = torch.stack([of_video[len(of_video) // 2] for of_video in logits])
    expected = {
        "val_loss": -float(shares[torch.arange(6), labels].log().mean()),
        "val_accuracy": 100 * float((shares.argmax(1) == labels).float().mean()),
        "one_clip_accuracy": 100 * float((middles.argmax(1) == labels).float().mean()),
        "val_accuracy_top5": 100 * float((shares.argsort(1)[:, -5:] == labels[:, None]).sum() / 6),
        "one_clip_accuracy_top5": 100
        * float((middles.argsort(1)[:, -5:] == labels[:, None]).sum() / 6),
    }
    assert expected["val_accuracy_top5"] < 100
    for sizes in ([6], [1, 1, 4], [2, 2, 2]):
        parts, begin = [], 0
        for size in sizes:
            own = range(begin, begin + size)
            places = [v for v, number in enumerate(own) for _ in range(counts[number])]
            starts = [places.index(v) for v in range(size)]
            middle = [
                start + counts[number] // 2 for start, number in zip(starts, own, strict=True)
            ]
            clips = torch.cat([logits[number] for number in own])
            parts.append(VideoClips(clips, torch.tensor(places), torch.tensor(middle), labels[own]))
            begin += size
        assert clip_accuracies(lambda x: x, parts, CPU) == pytest.approx(expected, rel=STEP)


def test_a_class_that_is_nearly_impossible_has_a_finite_loss():
    clips = VideoClips(
        torch.tensor([[2000.0, 0.0]]), torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
    )
    found = clip_accuracies(lambda x: x, [clips], CPU)
    assert found["val_loss"] == pytest.approx(2000)
    assert found["val_accuracy_top5"] == 100.0, "of two classes both are among the best five"


@pytest.mark.parametrize(("values", "sizes"), [(24, [2, 2, 2, 1]), (1, [1] * 7), (10**6, [7])])
def test_the_clips_of_a_batch_in_pieces_give_the_same(monkeypatch, values, sizes):
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Linear(12, 6)
    batch = VideoClips(
        torch.randn(7, 3, 4, 1, 1, generator=generator), torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        torch.tensor([1, 4, 6]), torch.tensor([3, 0, 5]),
    )  # fmt: skip
    seen = []

    def logits(clips):
        seen.append(len(clips))
        return network(clips.flatten(1))

    whole = clip_accuracies(logits, [batch], CPU)
    seen.clear()
    monkeypatch.setattr(evaluation, "MOST_VALUES", values)
    assert clip_accuracies(logits, [batch], CPU) == pytest.approx(whole, rel=STEP)
    assert seen == sizes


def test_a_piece_is_a_few_clips_of_the_papers_size():
    clip = 3 * 224 * 224
    assert evaluation.MOST_VALUES // (64 * clip) == 3
    assert evaluation.MOST_VALUES // (16 * 3 * 16 * 16) > 64, "small clips stay in one piece"
