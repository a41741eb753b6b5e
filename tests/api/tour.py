"""Asks a server and holds every answer and every event of a stream to the server's own OpenAPI document."""

import json
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from tests.api.open_responses import check_response, check_stream

TIMEOUT_S = 120.0


class Tour:
    """`ask` names the path as the document does. `visited` are the operations that answered with success."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.document = httpx.get(f"{url}/schema", timeout=TIMEOUT_S).json()
        self.client = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
        self.visited: set[tuple[str, str]] = set()

    @property
    def operations(self) -> set[tuple[str, str]]:
        """All that the document has."""
        return {(method, path) for path, methods in self.document["paths"].items() for method in methods}

    def ask(self, method: str, path: str, status: int = 200, *, at: str = "", **fields: Any) -> Any:
        """The JSON of the answer, the list of a stream's events, or its text. `at` is the path with its parameters."""
        response = self.client.request(method, at or path, **fields)
        assert response.status_code == status, response.text
        assert response.headers["x-request-id"]
        described = self.document["paths"][path][method.lower()]["responses"]
        kind = response.headers["content-type"].partition(";")[0]
        schema = described.get(str(status), described["default"])["content"][kind]["schema"]
        if status == 200:
            self.visited.add((method.lower(), path))
        return self._check(path, schema, kind, response.text)

    def _check(self, path: str, schema: dict[str, Any], kind: str, text: str) -> Any:
        if kind == "text/event-stream":
            return self._check_events(path, schema, text)
        if kind != "application/json":
            return text
        answer = json.loads(text)
        self._validate(schema, answer)
        if answer.get("object") == "response" and "output" in answer:
            check_response(answer)
        return answer

    def _check_events(self, path: str, schema: dict[str, Any], text: str) -> list[dict[str, Any]]:
        events = []
        for block in text.strip("\n").split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if not lines:
                continue  # a comment
            self._validate(schema, lines)
            if lines["data"] == "[DONE]":
                continue
            events.append(json.loads(lines["data"]))
            content = schema["properties"]["data"]["anyOf"][1].get("contentSchema", {})
            self._validate(content, events[-1])
        if path.startswith("/v1/responses"):
            check_stream(events)
        return events

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "components": self.document["components"]}
        Draft202012Validator(whole).validate(value)
