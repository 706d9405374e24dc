"""docs/deploy.md and deploy/README.md name what there is."""

import re

from serving.config import ENV_PREFIX, Settings
from tests.deploy.manifests import DEPLOY, KUBERNETES, OVERLAYS, ROOT, read

GUIDE = (ROOT / "docs/deploy.md").read_text()
TABLE = (DEPLOY / "README.md").read_text()


def test_every_file_has_a_line() -> None:
    there = {path.name for path in DEPLOY.iterdir() if not path.name.startswith("_")} - {"README.md"}
    named = {
        name.split("/")[0] for line in re.findall(r"^\| (`.+?`) \|", TABLE, re.MULTILINE) for name in _quoted(line)
    }
    assert there - {"serving.service"} <= named


def _quoted(line: str) -> list[str]:
    return re.findall(r"`([^`]+)`", line)


def test_paths_exist() -> None:
    paths = set(re.findall(r"\bdeploy/[\w./-]+\w", GUIDE))
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_environment_variables_are_settings() -> None:
    named = set(re.findall(r"^SERVING_(\w+)=", GUIDE, re.MULTILINE))
    assert ENV_PREFIX == "SERVING_" and len(named) > 4
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_every_overlay_and_every_value_in_use_is_there() -> None:
    section = GUIDE.split("## In Kubernetes")[1].split("An overlay of your own")[0]
    assert tuple(sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))) == OVERLAYS
    values = read(DEPLOY / "helm/serving/values.yaml")[0]
    for path in re.findall(r"--set '?([\w.]+)=", GUIDE):
        at = values
        for name in path.split("."):
            assert name in at, path
            at = at[name]
    for name in re.findall(r"kubernetes/components/(\w+)", GUIDE):
        assert (KUBERNETES / "components" / name / "kustomization.yaml").exists()
