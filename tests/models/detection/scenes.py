"""Images with a few boxes and masks, for tests of detectors."""

import torch

from groupnorm.data.batches import generator_of


def scene(size, objects, generator, classes=5, dtype=torch.float32):
    """An image and its target, in torchvision's form; an object is brighter than the noise."""
    image = torch.rand(3, size, size, generator=generator, dtype=dtype) / 2
    corner = torch.rand(objects, 2, generator=generator, dtype=dtype) * size * 0.5
    extent = size * (0.2 + 0.25 * torch.rand(objects, 2, generator=generator, dtype=dtype))
    boxes = torch.cat([corner, corner + extent], 1)
    labels = torch.randint(1, classes + 1, (objects,), generator=generator)
    masks = torch.zeros(objects, size, size, dtype=torch.uint8)
    for mask, (left, top, right, bottom), label in zip(
        masks, boxes.round().int().tolist(), labels.tolist(), strict=True
    ):
        mask[top:bottom, left:right] = 1
        image[label % 3, top:bottom, left:right] += 0.4
    return image, {"boxes": boxes, "labels": labels, "masks": masks}


def scenes(objects, size=64, seed=0, dtype=torch.float32):
    """One image for each number of objects, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [scene(size, count, generator, dtype=dtype) for count in objects]
    return [image for image, _ in pairs], [target for _, target in pairs]


def generators(step, workers):
    """One for each of the workers, seeded as in a step of the task."""
    return [generator_of(step, "worker", worker) for worker in workers]
