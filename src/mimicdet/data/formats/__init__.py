"""Readers of COCO JSON, PASCAL VOC XML and YOLO txt + YAML, and `look`, which tells them apart.

Each has `find`, which says where a folder's splits lie, and `read`, which yields raw records and logs faulty ones.
`mimicdet.data.splits` is the way in.
"""
