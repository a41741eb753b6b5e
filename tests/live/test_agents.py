"""Programs of the command line, headless, configured as docs/clients says: one question each."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from tests.live.clients.installed import NODE, find_version, run_client
from tests.live.clients.snippets import write_snippets
from tests.live.clients.table import RecordProperty, record_client
from tests.live.installation import API_KEY, Installation

# client, page, npm package. Each sends 2,000 to 17,000 tokens of its own instructions, the date and folders among them:
# what so small a model says then is not foreseen here, nor whether it calls a tool and so begins another turn.
AGENTS = [
    ("Codex CLI", "codex", "@openai/codex"),
    ("opencode", "opencode", "opencode-ai"),
    ("Continue CLI", "continue", "@continuedev/cli"),
    ("Claude Code", "claude-code", "@anthropic-ai/claude-code"),
]
TOLD_OF_KEYS = [agent for agent in AGENTS if agent[1] != "opencode"]
RUN_ELSEWHERE = {(page, "run.sh") for page in ("curl", "transformers-chat", *(page for _, page, _ in AGENTS))} | {
    ("codex", ".codex/config.toml"),
    ("opencode", "opencode.json"),
    ("continue", "config.yaml"),
}

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("agent", AGENTS, ids=[page for _, page, _ in AGENTS])
def test_agent_shows_the_answer(
    agent: tuple[str, str, str], installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    client, page, package = agent
    record_client(record_property, client, find_version(NODE, package), "one prompt, streamed answer")
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)  # Codex works in repositories alone
    write_snippets(page, home, url=installation.url, key=API_KEY)
    earlier = {row["id"] for row in installation.list_usage()}
    result = run_client(NODE, ["sh", "run.sh"], home, timeout_s=200, may_be_cut=True)
    installation.wait_until_settled()
    rows = [row for row in installation.list_usage() if row["id"] not in earlier]
    answered = [row for row in rows if row["status"] == "ok" and row["prompt_tokens"] > 1000]  # its own instructions
    assert answered, (result.stdout, [dict(row) for row in rows])
    assert not [row for row in rows if row["status"] == "error"], result.stdout
    if not result.was_cut:
        assert result.returncode == 0, result.stdout
        assert result.stdout.strip()


@pytest.mark.parametrize("agent", TOLD_OF_KEYS, ids=[page for _, page, _ in TOLD_OF_KEYS])
def test_agent_shows_what_is_wrong_with_a_key(
    agent: tuple[str, str, str], installation: Installation, home: Path, record_property: RecordProperty
) -> None:
    client, page, package = agent
    record_client(record_property, client, find_version(NODE, package), "wrong key")
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    write_snippets(page, home, url=installation.url, key="atr_wrong")
    result = run_client(NODE, ["sh", "run.sh"], home)
    assert result.returncode != 0, result.stdout
    assert "Incorrect API key provided" in result.stdout


def test_curl_streams(installation: Installation, home: Path, record_property: RecordProperty) -> None:
    program = subprocess.run([shutil.which("curl") or "curl", "--version"], capture_output=True, text=True, check=True)
    version = re.match(r"curl (\S+)", program.stdout)
    record_client(record_property, "curl", version[1] if version else "?", "streamed answer")
    write_snippets("curl", home, url=installation.url, key=API_KEY)
    output = subprocess.run(["sh", "run.sh"], cwd=home, capture_output=True, text=True, check=True, timeout=120).stdout
    events = [line.removeprefix("data: ") for line in output.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert len(events) > 5
    assert '"role":"assistant"' in events[0]


def test_transformers_chat(installation: Installation, home: Path, record_property: RecordProperty) -> None:
    record_client(record_property, "transformers chat", transformers.__version__, "streamed answer, generation_config")
    write_snippets("transformers-chat", home, url=installation.url.replace("127.0.0.1", "localhost"), key=API_KEY)
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HF_HOME": str(home), "TERM": "dumb"}
    result = subprocess.run(
        ["sh", "run.sh"], input="Who are you?\n!exit\n",
        capture_output=True, text=True, timeout=120, env=environment | {"COLUMNS": "100"}, cwd=home, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "demo model" in result.stdout.lower()
