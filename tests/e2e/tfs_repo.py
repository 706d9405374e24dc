"""The models that TensorFlow Serving's published tests know, and ONNX models beside them, in one repository."""

import json
from pathlib import Path

from tests import models, savedmodels


def write(repo: Path) -> Path:
    """Writes, and returns `repo`:

    default                    half_plus_two, version 123
    half_plus_two_2_versions   versions 123 and 124, with the labels `stable` and `canary`
    half_plus_three            version 1
    scale                      ONNX, versions 1 and 2 of y = version * x, FP32 [-1, 4]; label `old` for 1
    pair                       ONNX, INPUT0 and INPUT1, INT32 [-1, 2] -> their sum and difference
    nothing in common          ONNX, a name that has to be encoded; x FP32 [3, 4] -> y
    text                       BYTES [-1, 2]: `text` and `raw` -> `text` and `raw_bytes`
    half, short                ONNX, x FP16 and UINT16 [-1, 2] -> y
    """
    savedmodels.write("half_plus_two", repo / "default/123")
    savedmodels.write("half_plus_two", repo / "half_plus_two_2_versions/123")
    savedmodels.write("half_plus_two_more", repo / "half_plus_two_2_versions/124")
    _spec(repo / "half_plus_two_2_versions", versions="all", version_labels={"stable": 123, "canary": 124})
    savedmodels.write("half_plus_three", repo / "half_plus_three/1")
    for version in (1, 2):
        models.save(models.scale(version), repo / f"scale/{version}/model.onnx")
    _spec(repo / "scale", versions="all", version_labels={"old": 1})
    models.save(models.add_sub("INT32", 2), repo / "pair/1/model.onnx")
    models.save(models.identity("FP32", (3, 4)), repo / "nothing in common/1/model.onnx")
    for name, dtype in (("half", "FP16"), ("short", "UINT16")):
        models.save(models.identity(dtype, ("batch", 2)), repo / name / "1/model.onnx")
    tensors = [
        {"input": name, "output": output, "datatype": "BYTES", "shape": [-1, 2]}
        for name, output in (("text", "text"), ("raw", "raw_bytes"))
    ]
    (repo / "text/1").mkdir(parents=True)
    (repo / "text/1/identity.yaml").write_text(json.dumps({"tensors": tensors}))
    return repo


def _spec(model: Path, **keys: object) -> None:
    (model / "model.yaml").write_text(json.dumps(keys))
