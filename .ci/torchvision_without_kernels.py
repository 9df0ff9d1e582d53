"""Lets torchvision be imported beside PyTorch's CPU build, whose operators its wheel lacks."""

import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
