"""A model server: ONNX and SavedModel, batched, over REST and gRPC."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("serving")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
