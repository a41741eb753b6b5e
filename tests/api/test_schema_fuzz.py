"""A few hundred requests of the OpenAPI document, always the same: `python -m tests.schema_fuzz` makes more."""

from pathlib import Path

import pytest

from tests.schema_fuzz import Fuzzer
from tests.served_models import serve_models

NUM_REQUESTS = 400


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_asked_the_answer_is_as_the_document_says(tmp_path: Path) -> None:
    with serve_models(tmp_path) as web:
        findings = Fuzzer(web, seed=1).run(NUM_REQUESTS)
    assert not findings.failures, "\n\n".join(findings.failures.values())
    assert findings.num_requests > NUM_REQUESTS / 2
    answered = {label for label, count in findings.statuses.items() if label.endswith(" 200")}
    assert {"POST /v1/chat/completions 200", "POST /v1/responses 200", "POST /v1/embeddings 200"} <= answered
