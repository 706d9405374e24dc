"""Load on a running server: a benchmark with floors to compare against, and locust users."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in serving/backends/onnx.py
