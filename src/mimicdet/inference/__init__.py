"""From a detector and images to detections, and from detections to COCO's numbers."""
