"""Models as one file for other runtimes: ONNX, OpenVINO, torch.export; each compared with eager before it is kept."""
