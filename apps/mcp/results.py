"""What a tool gave back: as a model reads it, and as a client sees it. Pure.

Results are content blocks of the protocol:
https://modelcontextprotocol.io/specification/2025-11-25/server/tools#tool-result
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from apps.inference.media import is_picture
from apps.mcp.models import CallStatus

MAX_PICTURES = 4  # of one result
MAX_ERROR_CHARS = 1000

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallResult:
    """The end of a call. `blocks`: its content; `error`: why there is none, or what a tool said went wrong."""

    status: CallStatus
    blocks: tuple[Block, ...] = ()
    error: dict[str, Any] | None = None

    @property
    def output(self) -> str | None:
        """For clients: text as it is, anything else as JSON of the content blocks."""
        return None if self.error is not None else write_output(list(self.blocks))


def make_result(content: list[Block], structured: Any, *, is_error: bool, max_chars: int) -> CallResult:
    """Of a call that came to an answer, cut to the size that is allowed."""
    blocks = content or ([] if structured is None else [{"type": "text", "text": json.dumps(structured)}])
    blocks = _cut(blocks, max_chars)
    if is_error:
        error = {"type": "mcp_tool_execution_error", "content": blocks}
        return CallResult(CallStatus.TOOL_ERROR, tuple(blocks), error)
    return CallResult(CallStatus.OK, tuple(blocks))


def make_failure(message: str, status: CallStatus = CallStatus.FAILED, code: int = 0) -> CallResult:
    """Of a call that came to none."""
    text = message[:MAX_ERROR_CHARS]
    return CallResult(status, (_make_text(text),), {"type": "mcp_protocol_error", "code": code, "message": text})


def write_output(blocks: list[Block]) -> str:
    """Texts joined by line breaks; JSON where there is anything else."""
    if all(block.get("type") == "text" for block in blocks):
        return "\n".join(str(block.get("text", "")) for block in blocks)
    return json.dumps(blocks, ensure_ascii=False)


def make_content(result: CallResult, *, max_pictures: int) -> str | list[dict[str, Any]]:
    """The message of a tool: its text, and so many of its pictures where the model can see any."""
    texts: list[str] = []
    parts: list[dict[str, Any]] = []
    for block in result.blocks:
        if block.get("type") == "image" and len(parts) < max_pictures and _is_valid_picture(block):
            url = f"data:{block.get('mimeType', 'image/png')};base64,{block['data']}"
            parts.append({"type": "image_url", "image_url": url})
        else:
            texts.append(describe(block))
    text = ("Error: " if result.error is not None else "") + "\n".join(texts)
    return [{"type": "text", "text": text}, *parts] if parts else text


def describe_result(output: Any, error: Any) -> str:
    """Of a call in an earlier turn, as text: its pictures are not shown again."""
    if error is not None:
        return _describe_error(error)
    if isinstance(output, str) and output.startswith('[{"type"'):
        try:
            return "\n".join(map(describe, json.loads(output)))
        except (ValueError, TypeError, AttributeError):
            return output
    return output if isinstance(output, str) else ""


def describe(block: Block) -> str:
    """A content block as text."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind}:
            return f"[{kind}, {block.get('mimeType', 'of unknown type')}, {_count_bytes(block.get('data'))} bytes]"
        case {"type": "resource", "resource": {"text": str(text), **_rest}}:
            return text
        case {"type": "resource", "resource": dict(resource)}:
            size = _count_bytes(resource.get("blob"))
            return f"[resource {resource.get('uri')}, {resource.get('mimeType', 'of unknown type')}, {size} bytes]"
        case {"type": "resource_link"}:
            return f"[resource {block.get('uri')}: {block.get('description') or block.get('name')}]"
    return json.dumps(block, ensure_ascii=False)


def _describe_error(error: Any) -> str:
    if not isinstance(error, dict):
        return f"Error: {error}"
    if isinstance(content := error.get("content"), list):
        return "Error: " + "\n".join(describe(block) for block in content if isinstance(block, dict))
    return f"Error: {error.get('message')}"


def _cut(blocks: list[Block], max_chars: int) -> list[Block]:
    """The first of them that fit. Pictures count as what they are: the connection's own limit holds for them."""
    kept: list[Block] = []
    left = max_chars
    num_pictures = 0
    for block in blocks:
        if block.get("type") == "image" and num_pictures < MAX_PICTURES:
            num_pictures += 1
            kept.append(block)
            continue
        text = describe(block)
        if len(text) > left:
            note = f"\n[cut here: the result has more than {max_chars} characters]"
            return [*kept, _make_text(text[: max(0, left)] + note)]
        left -= len(text)
        kept.append(block)
    return kept


def _make_text(text: str) -> Block:
    return {"type": "text", "text": text}


def _count_bytes(encoded: Any) -> int:
    return len(encoded) * 3 // 4 - encoded[-2:].count("=") if isinstance(encoded, str) else 0


def _is_valid_picture(block: Block) -> bool:
    """One that the model's server would take: else the whole answer would fail for it."""
    kind, data = str(block.get("mimeType", "image/png")), block.get("data")
    if not kind.startswith("image/") or _count_bytes(data) > settings.MAX_IMAGE_BYTES:
        return False
    try:
        return is_picture(base64.b64decode(str(data), validate=True))
    except (binascii.Error, ValueError):
        return False
