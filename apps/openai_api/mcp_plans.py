"""From the servers that a request names to the plan of its loop: looked up, checked, with what was allowed before."""

from collections.abc import Sequence
from functools import partial

from django.conf import settings

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import InvalidRequest, NotFound, UnsupportedParameter
from apps.core.fetch import FetchError, FetchRules, check_url
from apps.mcp.access import find_server
from apps.mcp.events import ApprovedCall
from apps.mcp.plan import ApprovalRule, OfferedServer, Plan, ToolFilter
from apps.mcp.servers import HttpTarget, ServerSpec
from apps.openai_api.schemas.mcp_choice import choose_tools
from apps.openai_api.schemas.mcp_tools import AllowedTools, ApprovalFilters, NamedServer, NamedTools, RequiredApproval
from apps.openai_api.schemas.responses import ResponsesCall
from apps.openai_api.schemas.responses_shape import InputItem
from apps.openai_api.schemas.responses_tools import join_choice
from apps.openai_api.schemas.tool_choice import ToolChoice, Tools

_EVERY_TOOL = ToolFilter()


async def plan_response(call: ResponsesCall, history: Sequence[InputItem], caller: Caller) -> Plan | None:
    """None where no server is named. Raises InvalidRequest, also for an approval of what no server is named for."""
    approved = _find_approved(call, history)
    named = call.tools.servers
    labels = {server.label for server in named}
    for item in approved:
        if item.label not in labels:
            message = f"'tools' lacks the MCP server '{item.label}', whose call is allowed."
            raise InvalidRequest(message, param="tools")
    if not named:
        return None
    told = {item.server_label for item in _list_known(call, history) if item.type == "mcp_list_tools"}
    return Plan(
        servers=tuple([await _offer(server, caller, is_news=server.label not in told) for server in named]),
        choose=partial(choose_tools, join_choice(call.body.tool_choice)),
        functions=call.request.tools,
        approved=tuple(approved),
        max_calls=call.body.max_tool_calls,
    )


async def plan_chat(names: list[str], functions: Tools | None, choice: ToolChoice | None, caller: Caller) -> Plan:
    """With registered servers alone, whose tools are called without asking: who names a server allows it."""
    servers = []
    for index, name in enumerate(dict.fromkeys(names)):
        spec = await _find(name, f"mcp_servers[{index}]", caller)
        servers.append(OfferedServer(spec, _EVERY_TOOL, ApprovalRule(default=False)))
    return Plan(
        servers=tuple(servers),
        choose=partial(choose_tools, choice),
        functions=functions,
        tells_listings=False,
        calls_beside_functions=False,
    )


async def _offer(named: NamedServer, caller: Caller, *, is_news: bool) -> OfferedServer:
    spec = _read_url(named) if named.url is not None else await _find_named(named, caller)
    return OfferedServer(spec, _read_allowed(named.allowed), _read_approval(named.approval), is_news)


async def _find_named(named: NamedServer, caller: Caller) -> ServerSpec:
    param = f"{named.path}.{'server_label' if named.name == named.label else 'connector_id'}"
    spec = await _find(named.name, param, caller)
    target = spec.target
    if named.headers:
        if not isinstance(target, HttpTarget):
            param = f"{named.path}.headers"
            raise UnsupportedParameter(f"'{param}': the MCP server '{named.name}' takes none.", param=param)
        given = {name.lower() for name in named.headers}
        kept = {name: value for name, value in target.headers.items() if name.lower() not in given}
        target = HttpTarget(target.url, kept | named.headers, target.transport, target.may_be_private)
    return ServerSpec(named.label, target, spec.timeout_s, spec.row_id, spec.tools)


async def _find(name: str, param: str, caller: Caller) -> ServerSpec:
    try:
        return await run_db(find_server, caller, name)
    except NotFound as error:
        raise InvalidRequest(f"'{param}': {error.message}", param=param) from None


def _read_url(named: NamedServer) -> ServerSpec:
    """A server of the caller's own."""
    url, param = named.url or "", f"{named.path}.server_url"
    if not settings.MCP_URLS:
        message = f"'{param}': only registered MCP servers are called here. Name one as 'server_label'."
        raise UnsupportedParameter(message, param=param)
    try:
        check_url(url, FetchRules(0, 0, private_hosts=frozenset(settings.MCP_PRIVATE_HOSTS)))
    except (FetchError, ValueError) as error:
        message = str(error) if isinstance(error, FetchError) else "It is not a URL."
        raise InvalidRequest(f"'{param}' cannot be used. {message}", param=param) from None
    return ServerSpec(named.label, HttpTarget(url, named.headers), settings.MCP_CALL_TIMEOUT_S)


def _read_allowed(given: AllowedTools | None) -> ToolFilter:
    if given is None:
        return _EVERY_TOOL
    return ToolFilter(frozenset(given)) if isinstance(given, list) else _read_filter(given)


def _read_filter(given: NamedTools) -> ToolFilter:
    names = None if given.tool_names is None else frozenset(given.tool_names)
    return ToolFilter(names, given.read_only)


def _read_approval(given: RequiredApproval) -> ApprovalRule:
    if not isinstance(given, ApprovalFilters):
        return ApprovalRule(default=given == "always")
    always = given.always and _read_filter(given.always)
    never = given.never and _read_filter(given.never)
    # What neither names has to be allowed, as by default.
    return ApprovalRule(default=True, always=always or None, never=never or None)


def _list_known(call: ResponsesCall, history: Sequence[InputItem]) -> list[InputItem]:
    return [*history, *([] if isinstance(call.given, str) else call.given)]


def _find_approved(call: ResponsesCall, history: Sequence[InputItem]) -> list[ApprovedCall]:
    """Calls that this very request allows. Raises InvalidRequest for one that was made already."""
    given = [] if isinstance(call.given, str) else call.given
    known = _list_known(call, history)
    asked = {item.id: item for item in known if item.type == "mcp_approval_request"}
    decided = {item.approval_request_id for item in history if item.type == "mcp_approval_response"}
    made = decided | {item.approval_request_id for item in known if item.type == "mcp_call"}
    approved: list[ApprovedCall] = []
    for index, item in enumerate(given):
        asked_id = item.approval_request_id
        if item.type != "mcp_approval_response" or asked_id is None or asked_id not in asked:
            continue
        if asked_id in made:
            param = f"input[{index}].approval_request_id"
            raise InvalidRequest(f"'{param}': that was decided before.", param=param)
        made.add(asked_id)
        if item.approve:
            request = asked[asked_id]
            approved.append(
                ApprovedCall(asked_id, request.server_label or "", request.name or "", request.arguments or "{}")
            )
    return approved
