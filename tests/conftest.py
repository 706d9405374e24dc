"""What holds for all tests."""

import os

from hypothesis import settings

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves

# The same examples in each run, and none that fails because a machine is slow.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")
