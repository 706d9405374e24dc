"""The OpenAPI document and the page that shows it: complete, self-contained, and every example works."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from serving.transport import openapi
from tests import models
from tests.transport.app import site
from tests.transport.raw import on_loop

METHODS = {"get", "post"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Models of several kinds; none of them has a version 1."""
    models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")
    models.save(models.identity(), tmp_path / "copy" / "3" / "model.onnx")
    models.save(models.identity("BYTES", (models.BATCH, 2)), tmp_path / "it's text" / "3" / "model.onnx")
    models.save(models.add_sub(), tmp_path / "simple" / "7" / "model.onnx")
    models.save(models.identity("FP16"), tmp_path / "half" / "2" / "model.onnx")
    return tmp_path


class Page(HTMLParser):
    """What of the page could ask for something elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]


def test_the_page_needs_nothing_from_outside() -> None:
    text = openapi.docs_page()
    assert len(text.encode()) < 20_000
    assert re.findall(r"\w+://|[\"'(=]//\w", text) == []
    assert not re.search(r"@import|\b(url|import)\(", text)
    page = Page(text)
    assert page.references == ["data:,", "openapi.json"]
    assert not {"iframe", "img", "object", "embed", "form"} & set(page.tags)


def test_the_page_can_be_used_by_everyone() -> None:
    text = openapi.docs_page()
    assert text.startswith("<!doctype html>") and '<html lang="en">' in text
    assert '<meta name="viewport"' in text and "<noscript>" in text
    assert "prefers-color-scheme: dark" in text and ":focus-visible" in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_colours_of_the_page_have_contrast(theme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", openapi.docs_page(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[theme == "dark"]))
    for ink, ground in [
        *((ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card", "code")),
        *((ink, "card") for ink in ("get", "post", "good", "bad")),
        *((ink, "code") for ink in ("key", "text", "number")),
        ("on-accent", "accent"),
        ("ink", "field"),
    ]:
        light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"  # WCAG 2.2, level AA


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@on_loop
async def test_the_page_is_served(repository: Path) -> None:
    async with site(repository) as it:
        answer = await it.ask("GET", "/docs")
        assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.body.decode() == openapi.docs_page()


class TestDocument:
    @on_loop
    async def test_is_valid(self, repository: Path) -> None:
        async with site(repository) as it:
            document = await it.document()
        assert document["openapi"].startswith("3.1")
        assert document["info"]["title"] and document["info"]["version"]
        names = []
        for path, methods in document["paths"].items():
            assert path.startswith("/") and methods.keys() <= METHODS
            for operation in methods.values():
                names.append(operation["operationId"])
                assert operation["responses"].keys() >= {"200"}
                assert all(re.fullmatch("[1-5][0-9][0-9]", code) for code in operation["responses"])
                assert all(response["description"] for response in operation["responses"].values())
                declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path" and p["required"]}
                assert declared == set(re.findall(r"{(\w+)}", path))
        assert len(set(names)) == len(names)
        for reference in re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(document)):
            found: Any = document
            for key in reference.split("/"):
                found = found[key]

    @on_loop
    async def test_has_what_the_page_shows(self, repository: Path) -> None:
        async with site(repository) as it:
            document = await it.document()
        for path, methods in document["paths"].items():
            for operation in methods.values():
                assert operation["summary"] and len(operation["tags"]) == 1
                for parameter in operation.get("parameters", []):
                    assert parameter["example"] if parameter["in"] == "path" else parameter["description"]
                if "requestBody" in operation:
                    assert operation["requestBody"]["content"].keys() == {"application/json"}
                if path.endswith("/infer"):
                    examples = operation["requestBody"]["content"]["application/json"]["examples"]
                    assert examples.keys() == {"copy", "it's text", "simple"}  # JSON cannot carry half floats

    @on_loop
    async def test_has_every_route(self, repository: Path) -> None:
        async with site(repository) as it:
            paths = (await it.document())["paths"]
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        repository_model = "/v2/repository/models/{model}"
        tfs = ("/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}")
        memory = [f"/v2/{kind}sharedmemory" for kind in ("system", "cuda")]
        region = "/region/{region}"
        own, changes = "/serving/models/{model}", ("load", "unload", "promote", "rollback", "labels", "traffic")
        settings = ("/v2/logging", "/v2/trace/setting", model + "/trace/setting")
        assert {(m, p) for p, methods in paths.items() for m in methods} == {
            *(("get", p) for p in ("/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/stats")),
            *(("get", m + end) for m in (model, version) for end in ("", "/ready", "/config", "/stats")),
            *(("get", m + "/batching/explain") for m in (model, version)),
            *(("post", m + end) for m in (model, version) for end in ("/infer", "/generate", "/generate_stream")),
            *(("post", repository_model + action) for action in ("/load", "/unload")),
            ("post", "/v2/repository/index"),
            *((method, p) for p in settings for method in METHODS),
            *(("get", m + end) for m in memory for end in ("/status", region + "/status")),
            *(
                ("post", m + end)
                for m in memory
                for end in (region + "/register", region + "/unregister", "/unregister")
            ),
            *(("get", p + end) for p in tfs for end in ("", "/metadata")),
            *(("post", p + verb) for p in tfs for verb in (":predict", ":classify", ":regress")),
            *(("get", p) for p in ("/serving/models", own, "/serving/events")),
            *(("post", f"{own}/{verb}") for verb in changes),
        }

    @on_loop
    async def test_every_example_answers_200(self, repository: Path) -> None:
        """With the parameters of the document; an example of a model goes to that model."""
        async with site(repository) as it:
            document = await it.document()
            tried = 0
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    values = {p["name"]: p["example"] for p in operation.get("parameters", []) if p["in"] == "path"}
                    media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                    required = operation.get("requestBody", {}).get("required", "sharedmemory" in path)
                    bodies = {n: json.dumps(e["value"]).encode() for n, e in media.get("examples", {}).items()}
                    if "{version}" in path:  # the example of a version is one of the model in the example
                        bodies = {name: data for name, data in bodies.items() if name == values["model"]}
                    for name, data in (bodies or {"": b""}).items():
                        filled = {**values, **({"model": name} if name else {})}
                        url = re.sub(r"{(\w+)}", lambda m, filled=filled: quote(filled[m[1]], safe=""), path)  # type: ignore[misc]
                        if path.endswith(("/unload", "/rollback")):
                            continue  # it works, and then nothing else would; there is nothing to go back to
                        if "{label}" in path or "{region}" in path or (method == "post" and not data and required):
                            continue  # nothing here has a label, and not every body can have an example
                        answer = await it.ask(method.upper(), url, data)
                        assert answer.status == 200, (url, answer.body)
                        tried += 1
        assert tried > 10

    @on_loop
    async def test_follows_what_is_loaded(self, repository: Path) -> None:
        async with site(repository) as it:
            assert (await it.ask("POST", "/v2/repository/models/copy/unload")).status == 200
            paths = (await it.document())["paths"]
            for path in ("/v2/models/{model}/infer", "/v2/models/{model}/generate", "/v1/models/{model}:predict"):
                operation = paths[path]["post"]
                media = operation["requestBody"]["content"]["application/json"]
                assert media["examples"].keys() == {"it's text", "simple"}
            assert operation["parameters"][0]["example"] != "copy"

    @on_loop
    async def test_with_nothing_loaded(self, repository: Path) -> None:
        async with site(repository) as it:
            for name in ("copy", "it's%20text", "simple", "half"):
                assert (await it.ask("POST", f"/v2/repository/models/{name}/unload")).status == 200
            media = (await it.document())["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]
            assert not media["application/json"].get("examples")
