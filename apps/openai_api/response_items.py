"""The items of a response's input as they are kept and shown: each with an id, a type and parts. Pure."""

from typing import Any

Item = dict[str, Any]

_PREFIXES = {
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
}  # others are messages


def read_items(given: str | list[Item], response_id: str, referenced: dict[str, Item]) -> list[Item]:
    """A valid `input`: a text is a message of the user's, and an item that is only named is put in its place."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    suffix = response_id.removeprefix("resp_")
    return [
        referenced[item["id"]] if item.get("type") == "item_reference" else _complete(item, f"{suffix}_in{index}")
        for index, item in enumerate(items)
    ]


def get_prefix(item: Item) -> str:
    """What ids of its kind begin with."""
    return _PREFIXES.get(item["type"], "msg")


def _complete(item: Item, suffix: str) -> Item:
    kind = item.get("type") or "message"
    item_id = item.get("id") or f"{get_prefix({'type': kind})}_{suffix}"
    item = {**item, "id": item_id, "type": kind, "status": item.get("status") or "completed"}
    if kind == "message":
        item["content"] = _make_parts(item.get("content"), item["role"])
    elif kind.endswith("_call_output") and isinstance(item.get("output"), list):
        item["output"] = _make_parts(item["output"], "user")
    elif kind == "reasoning":
        item["summary"] = item.get("summary") or []
    return item


def _make_parts(content: str | list[Item] | None, role: str) -> list[Item]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [_make_part(part, role) for part in content or []]


def _make_part(part: Item, role: str) -> Item:
    if part["type"] in ("image_url", "input_image"):
        given = part["image_url"]
        nested = given if isinstance(given, dict) else {"url": given, "detail": part.get("detail")}
        return {"type": "input_image", "image_url": nested["url"], "detail": nested.get("detail") or "auto"}
    if part["type"] not in ("text", "input_text", "output_text"):
        return part
    if role != "assistant":
        return {"type": "input_text", "text": part["text"]}
    return {"annotations": [], "logprobs": [], **part, "type": "output_text"}
