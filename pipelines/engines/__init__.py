"""What computes the classifier: torch, or the same network as ONNX in another runtime."""
