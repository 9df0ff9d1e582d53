"""Detection data sets: images with boxes, labels and masks, in the COCO format."""
