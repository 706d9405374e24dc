"""Trainers: each makes one small real model and publishes it. They never import the server itself."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in serving/backends/onnx.py
