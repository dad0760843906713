"""Writers of COCO JSON, PASCAL VOC XML and YOLO txt + YAML, and of data sets cut into tiles.

Each format has `write`, which writes the annotations of all splits into a folder, and `IMAGES`, where the images of a
split lie in it. `mimicdet.data.convert` is the way in.
"""
