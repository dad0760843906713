"""Writes models as one file for other runtimes, ONNX, OpenVINO and torch.export, compared with eager beforehand."""
