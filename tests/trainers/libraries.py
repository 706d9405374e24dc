"""What trainers import, imported before they are: a process that is forked from one with this module starts at once."""

import os

from trainers.quiet import quiet_import

os.environ["KERAS_BACKEND"] = "tensorflow"  # as `trainers.training.load` has it
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
with quiet_import():
    import keras
    import matplotlib.pyplot
    import onnxruntime
    import pydantic
    import sklearn.datasets
    import tensorboard.plugins
    import tensorflow
    import tf2onnx

__all__ = ["keras", "matplotlib", "onnxruntime", "pydantic", "sklearn", "tensorboard", "tensorflow", "tf2onnx"]
