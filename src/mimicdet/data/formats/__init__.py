"""Readers of COCO JSON, PASCAL VOC XML and YOLO txt + YAML.

Each has `find`, which says where a folder's splits lie, and `read`, which collects raw records and logs faulty ones.
`mimicdet.data.splits` tells the formats apart and is the way in; `mimicdet.data.write` has the writers.
"""
