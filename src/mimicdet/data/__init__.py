"""From a folder of images and boxes to batches: formats, check, decode, transform, order, loader."""
