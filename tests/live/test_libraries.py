"""The scripts of docs/clients, run as they stand there: a whole answer, the same one streamed, a tool's round trip."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.clients.installed import NODE, find_version, run_client
from tests.live.clients.snippets import list_snippets, read_snippets, write_snippets
from tests.live.clients.table import RecordProperty, record_client
from tests.live.installation import API_KEY, Installation

OPENAI_3, OPENAI_2 = "python", "python-openai2"
ANSWER = "Atrium is a team's own inference portal."


@dataclass(frozen=True)
class Script:
    """A named block of a page, and what runs it."""

    client: str
    page: str
    name: str
    runtime: str
    package: str

    def run(self, server: Installation, home: Path, key: str = API_KEY, **options: str) -> tuple[int, str]:
        """Its exit status and what it printed."""
        write_snippets(self.page, home, url=server.url, key=key)
        interpreter = {".py": "python", ".mjs": "node", ".sh": "sh"}[Path(self.name).suffix]
        result = run_client(self.runtime, [interpreter, self.name], home, **options)
        return result.returncode, result.stdout

    def record(self, record_property: RecordProperty, did: str) -> None:
        record_client(record_property, self.client, find_version(self.runtime, self.package), did)


TOURS = [
    Script("openai (Python)", "openai", "tour.py", OPENAI_3, "openai"),
    Script("openai (JavaScript)", "openai", "tour.mjs", NODE, "openai"),
    Script("huggingface_hub AsyncInferenceClient", "huggingface-hub", "tour.py", OPENAI_3, "huggingface_hub"),
    Script("langchain-openai", "langchain", "tour.py", OPENAI_3, "langchain-openai"),
    Script("llama-index-llms-openai-like", "llama-index", "tour.py", OPENAI_2, "llama-index-llms-openai-like"),
    Script("pydantic-ai", "pydantic-ai", "tour.py", OPENAI_3, "pydantic-ai-slim"),
    Script("openai-agents", "openai-agents", "tour.py", OPENAI_3, "openai-agents"),
    Script("litellm", "litellm", "tour.py", OPENAI_2, "litellm"),
    Script("Vercel AI SDK", "ai-sdk", "tour.mjs", NODE, "ai"),
]
RESPONSES = Script("openai (Python)", "openai", "responses.py", OPENAI_3, "openai")
MCP_CLIENT = Script("huggingface_hub MCPClient", "huggingface-hub", "mcp_client.py", OPENAI_3, "huggingface_hub")
TINY_AGENTS = Script("tiny-agents", "tiny-agents", "run.sh", OPENAI_3, "huggingface_hub")

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: f"{tour.page}-{tour.name}")
def test_tour(tour: Script, installation: Installation, home: Path, record_property: RecordProperty) -> None:
    does_list = "models.list" in read_snippets(tour.page)[tour.name]
    did = "whole answer, streamed answer, tool call and its result"
    tour.record(record_property, f"models, {did}" if does_list else did)
    status, output = tour.run(installation, home)
    assert status == 0, output
    assert output.count(ANSWER) == 2, output
    whole, streamed = (line for line in output.splitlines() if ANSWER in line)
    assert streamed == whole
    last = output.split("get_weather", 1)[1]
    assert "Paris" in last.splitlines()[0], output
    assert "21 degrees" in last, output
    if does_list:
        assert "atrium-demo" in output.splitlines()[0]


@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: f"{tour.page}-{tour.name}")
def test_wrong_key_is_shown(
    tour: Script, installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    tour.record(record_property, "wrong key")
    status, output = tour.run(installation, home, key="atr_wrong")
    assert status != 0
    assert "Incorrect API key provided" in output


def test_openai_python_goes_on_with_a_kept_response(
    installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    RESPONSES.record(record_property, "responses, previous_response_id")
    status, output = RESPONSES.run(installation, home)
    assert status == 0, output
    assert ANSWER in output
    assert "key" in output.splitlines()[-1]


def test_mcp_client_calls_the_tool_of_a_server(
    installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    MCP_CLIENT.record(record_property, "streamed answers, tool of an MCP server")
    write_snippets("tiny-agents", home, url=installation.url, key=API_KEY)  # has the server
    status, output = MCP_CLIENT.run(installation, home)
    assert status == 0, output
    assert 'get_weather {"temperature": 21' in output
    assert "Paris" in output.splitlines()[-1]


def test_tiny_agents_calls_the_tool_of_a_server(
    installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    TINY_AGENTS.record(record_property, "streamed answers, tool of an MCP server")
    answer = "It is 21 degrees and sunny in Paris."
    _, output = TINY_AGENTS.run(installation, home, text="What's the weather in Paris?\n", until=answer)
    assert "Tool[get_weather]" in output
    assert answer in output


def test_every_named_block_is_run() -> None:
    """Docs that no test runs would go stale unseen: name a block, and list it here or in test_agents."""
    from tests.live.test_agents import RUN_ELSEWHERE

    run = {(script.page, script.name) for script in [*TOURS, RESPONSES, MCP_CLIENT, TINY_AGENTS]}
    helpers = {("tiny-agents", name) for name in ("agent.json", "PROMPT.md", "weather_server.py")}
    assert list_snippets() == run | helpers | RUN_ELSEWHERE
