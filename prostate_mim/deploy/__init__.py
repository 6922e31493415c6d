"""Deployment: a verified, self-contained .onnx with its input contract inside, and a runtime that needs no torch."""
