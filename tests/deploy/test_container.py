"""deploy/Dockerfile, the compose files, the bake file and the dev container, against each other and the server."""

import json
import re
from typing import Any

import pytest

from tests.deploy.manifests import DEPLOY, ROOT, read, settings

DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
STAGES = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
ARGUMENTS = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
COMPOSE = read(DEPLOY / "compose.yaml")[0]
GPU = read(DEPLOY / "compose.gpu.yaml")[0]
SERVICES: dict[str, Any] = COMPOSE["services"]


def _last(instruction: str) -> Any:
    return json.loads(re.findall(rf"^ *{instruction} (\[.+\])$", DOCKERFILE, re.MULTILINE)[-1])


def test_image_starts_a_server() -> None:
    chosen = settings(_last("CMD"))
    assert _last("ENTRYPOINT") == ["serving"] and chosen.host == "0.0.0.0"
    assert f"EXPOSE {chosen.http_port} {chosen.grpc_port}" in DOCKERFILE
    (health,) = re.findall(r"HEALTHCHECK .+CMD (\[.+\])", DOCKERFILE)
    assert f"http://127.0.0.1:{chosen.http_port}/v2/health/ready" in json.loads(health)[2]
    compile(json.loads(health)[2], "health check", "exec")


def test_what_is_copied_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


def test_no_image_ends_as_root() -> None:
    for stage in ("trainers", "server"):
        text = re.split(r"^FROM ", DOCKERFILE.split(f" AS {stage}\n")[1], flags=re.MULTILINE)[0]
        assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]


def test_extras_are_the_projects() -> None:
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    texts = [DOCKERFILE, (DEPLOY / "docker-bake.hcl").read_text(), (DEPLOY / "compose.gpu.yaml").read_text()]
    named = {
        extra for text in texts for found in re.findall(r'EXTRAS *[=:] *"?([\w,]+)', text) for extra in found.split(",")
    }
    named |= set(re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)[0].split(","))
    assert {"cpu", "gpu", "tensorflow", "train"} <= named <= known


def test_bake_builds_stages_that_there_are() -> None:
    text = (DEPLOY / "docker-bake.hcl").read_text()
    assert set(re.findall(r'^  target +=\s+"(\w+)"', text, re.MULTILINE)) == {"server", "trainers"} <= STAGES
    assert set(re.findall(r"\b([A-Z_]+) += ", text)) <= ARGUMENTS
    assert set(re.findall(r"DEVICE = \"(\w+)\"", text)) == {"gpu"} and {"base-cpu", "base-gpu"} <= STAGES


def test_compose_starts_a_server() -> None:
    chosen = settings(SERVICES["serving"]["command"])
    assert [mount.split(":")[1] for mount in SERVICES["serving"]["volumes"]] == [chosen.paths[0], str(chosen.state_dir)]
    limit_s = int(SERVICES["serving"]["stop_grace_period"].removesuffix("s"))
    assert chosen.stop_grace_s + chosen.drain_limit_s < limit_s


@pytest.mark.parametrize("name", SERVICES)
def test_compose_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "healthcheck" in service or service["build"]["target"] == "server"  # that one has its own


@pytest.mark.parametrize("name", SERVICES)
def test_compose_mounts_what_there_is(name: str) -> None:
    for mount in SERVICES[name]["volumes"]:
        source = mount.split(":")[0]
        if source.startswith("."):
            made = source in ("../runs", "../model_repo")  # by the trainers
            assert made or (DEPLOY / source).exists()
        else:
            assert source in COMPOSE["volumes"]


def test_compose_profiles() -> None:
    assert {name for name in SERVICES if "profiles" not in SERVICES[name]} == {"serving", "prometheus", "grafana"}
    assert {name for name in SERVICES if SERVICES[name].get("profiles") == ["train"]} == {"tensorboard", "jupyter"}


def test_compose_for_a_gpu_changes_the_same_service() -> None:
    assert GPU["services"].keys() <= SERVICES.keys()
    assert GPU["services"]["serving"]["build"]["args"].keys() <= ARGUMENTS


def test_dev_container() -> None:
    text = (ROOT / ".devcontainer/devcontainer.json").read_text()
    read_in = json.loads(re.sub(r"^ *//.*$", "", text, flags=re.MULTILINE))
    target = read_in["onCreateCommand"].removeprefix("make ")
    assert target.replace("all", "%") in (ROOT / "Makefile").read_text()
