"""deploy/systemd and deploy/terraform."""

import configparser
import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.deploy.manifests import DEPLOY, KUBERNETES, ROOT, settings

UNIT = DEPLOY / "systemd/serving.service"
TERRAFORM = shutil.which("terraform")


def _unit() -> configparser.RawConfigParser:
    read = configparser.RawConfigParser(strict=False, interpolation=None)  # keys come more than once
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read_string(UNIT.read_text())
    return read


def test_unit_starts_a_server() -> None:
    service = _unit()["Service"]
    chosen = settings(shlex.split(service["ExecStart"])[1:])
    written = {f"/var/lib/{name}" for name in service["StateDirectory"].split()}
    written |= {f"/var/cache/{service['CacheDirectory']}"}
    assert {str(chosen.state_dir), str(chosen.cache_dir)} <= written and service["ProtectSystem"] == "strict"
    assert chosen.stop_grace_s + chosen.drain_limit_s < int(service["TimeoutStopSec"])
    assert chosen.paths[0] in (DEPLOY / "systemd/serving.tmpfiles").read_text()
    assert f"u {service['User']} " in (DEPLOY / "systemd/serving.sysusers").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_one(tmp_path: "os.PathLike[str]") -> None:
    path = os.path.join(tmp_path, UNIT.name)  # noqa: PTH118
    with open(path, "w") as file:  # noqa: PTH123
        file.write(UNIT.read_text().replace("/opt/serving/bin/serving", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")
def test_terraform_is_formatted() -> None:
    assert TERRAFORM is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [TERRAFORM, "fmt", "-check", "-recursive", str(DEPLOY / "terraform")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_terraform_variables_are_declared_and_used() -> None:
    for directory in (DEPLOY / "terraform").iterdir():
        text = "\n".join(path.read_text() for path in directory.glob("*.tf"))
        assert set(re.findall(r"\bvar\.(\w+)", text)) == set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))


def test_terraform_and_manifests_agree() -> None:
    """The GPU pool's label, and the service account that may read the models."""
    text = (DEPLOY / "terraform/gke/main.tf").read_text()
    assert 'accelerator = "nvidia"' in text
    assert "nodeSelector: {accelerator: nvidia}" in (KUBERNETES / "overlays/gpu/kustomization.yaml").read_text()
    assert "/sa/serving" in text and "name: serving\n" in (KUBERNETES / "base/serviceaccount.yaml").read_text()
    kind = (DEPLOY / "terraform/kind/main.tf").read_text()
    assert 'container_path = "/models"' in kind and 'default     = "../../../model_repo"' in kind
    assert "hostPath: {path: /models" in (KUBERNETES / "overlays/kind/models.yaml").read_text()
    assert (ROOT / "model_repo").is_dir()
