"""Trained classifiers for other programs: ONNX, torch.export and safetensors files, and ONNX in 8-bit integers."""
