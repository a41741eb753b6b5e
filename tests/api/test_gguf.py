"""A GGUF file behind the whole application, by the id that GGUF clients use."""

from pathlib import Path

import pytest

from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_model, make_replica
from tests.tiny_gguf import save_gguf
from tests.worker_process import run_worker

NAME = "org/tiny-GGUF:tiny.gguf"


@pytest.mark.slow
def test_a_chat_with_a_model_of_a_file(api: Api, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    body = {"model": NAME, "messages": [{"role": "user", "content": "abc"}], "max_tokens": 5, "temperature": 0}
    with run_worker(path, num_blocks=64, block_size=4, max_num_seqs=4) as worker:
        make_replica(make_model(NAME, source=str(path)), port=worker.port, token=worker.token)
        answer = api.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == NAME
        assert answer.json()["usage"]["prompt_tokens"] == 3, "ab, c and the template's mark"
        other = api.post("/v1/chat/completions", body | {"model": "org/tiny-GGUF:other.gguf"})
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    wait_for_settled_rows(1)
