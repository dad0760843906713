"""Reads and writes COCO JSON, PASCAL VOC XML and YOLO txt + YAML.

Each module has `find`, which says where a folder's splits lie, `read`, which collects raw records and logs faulty ones,
`write`, which writes the annotations of all splits into a folder, and `IMAGES`, where the images of a split lie in it.
"""
