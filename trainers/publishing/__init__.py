"""From a trained model to a version that a server can take: exported, checked, published, pushed.

What is named here is for models that no trainer made; see docs/train-your-own.md.
"""

from trainers.publishing.own import publish_keras, publish_onnx, publish_sklearn, publish_torch
from trainers.publishing.push import push

__all__ = ["publish_keras", "publish_onnx", "publish_sklearn", "publish_torch", "push"]
