"""Small images, as uint8 tensors on the training's device."""
