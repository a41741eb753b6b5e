"""Requests that schemathesis makes of the OpenAPI document: the server never fails, and answers as the document says.

`python -m tests.schema_fuzz --requests 5000` is the long run, on servers of its own; a seed repeats it exactly.
"""

import argparse
import contextlib
import secrets
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.recordings import make_recording
from tests.served_models import serve_models
from tests.web_process import WebProcess

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TIMEOUT_S = 120.0
_MODELS = {
    "/v1/embeddings": "embedder",
    "/v1/rerank": "reranker",
    "/v1/score": "reranker",
    "/v1/audio/transcriptions": "whisper",
    "/v1/audio/translations": "whisper",
}
_PLAIN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
    "/v1/completions": {"prompt": "hello", "max_tokens": 8},
    "/v1/responses": {"input": "hello", "max_output_tokens": 8},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/tokenize": {"prompt": "hello"},
    "/v1/embeddings": {"input": ["w1 w2", "w3"]},
    "/v1/rerank": {"query": "w1", "documents": ["w2", "w3"]},
    "/v1/score": {"text_1": "w1", "text_2": ["w2", "w3"]},
    "/v1/audio/transcriptions": {"file": make_recording(1.0)},
    "/v1/audio/translations": {"file": make_recording(1.0)},
}
# Valid numbers are brought down to these: what is tried is the surface, not the patience of whoever waits.
_CAPS = {"max_tokens": 8, "max_completion_tokens": 8, "max_output_tokens": 8, "min_tokens": 4, "n": 2, "best_of": 2}


@dataclass
class Findings:
    """What was asked, how it was answered, and what was wrong with it."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # what is wrong -> the request that showed it first

    @property
    def num_requests(self) -> int:
        return sum(self.statuses.values())


class Fuzzer:
    """Asks one server."""

    def __init__(self, web: WebProcess, seed: int) -> None:
        self.findings = Findings()
        self._url = web.url
        self._seed = seed
        self._session = requests.Session()
        self._session.headers["Authorization"] = web.headers["Authorization"]
        document = self._session.get(f"{web.url}/schema", timeout=TIMEOUT_S).json()
        self.operations = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
        self._response_id = self._make_response()

    def run(self, num_requests: int) -> Findings:
        """So many requests, or a few less, spread over all operations; half of them are meant to be wrong."""
        count = max(1, num_requests // len(self.operations) // len(GenerationMode))
        for operation in self.operations:
            for mode in GenerationMode:
                self._run_operation(operation, mode, count)
        return self.findings

    def _run_operation(self, operation: Any, mode: GenerationMode, count: int) -> None:
        @hypothesis.seed(self._seed)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            self._ask(case)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label  # nothing to get wrong: it takes no input

    def _ask(self, case: Case) -> None:
        self._tune(case)
        response = case.call(base_url=self._url, session=self._session, timeout=TIMEOUT_S)
        self.findings.statuses[f"{case.operation.label} {response.status_code}"] += 1
        try:
            case.validate_response(response, checks=CHECKS)
            assert "x-request-id" in response.headers, "no x-request-id"
        except (AssertionError, Failure, FailureGroup) as error:
            whole = "\n".join(map(str, error.exceptions)) if isinstance(error, FailureGroup) else str(error)
            self.findings.failures.setdefault(
                f"{case.operation.label}: {whole.splitlines()[0]}",
                f"{whole}\n{case.as_curl_command()}\n{response.text}",
            )

    def _tune(self, case: Case) -> None:
        """Name what exists, ask for little of it, and every other time for one unusual thing only."""
        count = self.findings.num_requests
        if case.path_parameters and count % 2:
            names = {"response_id": self._response_id, "model_id": "chat"}
            case.path_parameters |= {name: names.get(name, value) for name, value in case.path_parameters.items()}
        body = case.body
        if not isinstance(body, dict):
            return
        path = case.operation.path
        if count % 2 and path in _PLAIN:
            kept = sorted(body)[count // 2 % max(1, len(body)) :][:2]
            case.body = body = _PLAIN[path] | {name: body[name] for name in kept}
        if isinstance(body.get("model"), str | None):
            body["model"] = _MODELS.get(path, "chat")
        for name, cap in _CAPS.items():
            if isinstance(given := body.get(name), int) and given > cap:
                body[name] = cap

    def _make_response(self) -> str:
        body = {"model": "chat", "input": "hello", "max_output_tokens": 4}
        response = self._session.post(f"{self._url}/v1/responses", json=body, timeout=TIMEOUT_S)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])


def main() -> None:
    """Print the statuses and every finding; exit with 1 if there is one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="schema-fuzz-") as folder, serve_models(Path(folder)) as web:
        fuzzer = Fuzzer(web, options.seed)
        findings = fuzzer.findings
        with contextlib.suppress(KeyboardInterrupt):  # what was found until then is printed
            fuzzer.run(options.requests)
    for status, count in sorted(findings.statuses.items()):
        print(f"{count:6}  {status}")
    for what, shown in findings.failures.items():
        print(f"\n=== {what}\n{shown[:3000]}")
    print(f"\nseed {options.seed}: {findings.num_requests} requests, {len(findings.failures)} kinds of failures")
    sys.exit(bool(findings.failures))


if __name__ == "__main__":
    main()
