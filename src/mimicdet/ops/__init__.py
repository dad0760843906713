"""Pure tensor functions: boxes, suppression, deformable sampling."""
