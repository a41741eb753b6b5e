"""Whether and how much a model thinks before it answers: wishes put into what its chat template understands.

Templates differ in the variable that switches thinking, and some have none: then the prompt itself opens or closes the
block. Knows nothing of how the reasoning is read back (`parsers`).
"""

import re
from typing import Any, NamedTuple

from gpu_worker.frontend.errors import unsupported
from gpu_worker.frontend.history import TryRender
from gpu_worker.frontend.parsers import ReasoningParserClass
from gpu_worker.frontend.parsers.think import ThinkParser
from gpu_worker.protocol import ReasoningSetting

_USER = [{"role": "user", "content": "atrium"}]
_SWITCHES = ("enable_thinking", "thinking")
_EFFORT = "reasoning_effort"
_LEVEL_NONE = re.compile(r"""reasoning_effort[^{}]*['"]none['"]""")


class ReasoningWish(NamedTuple):
    """What is wanted of a request's reasoning."""

    enable_thinking: bool | None = None  # the client's word: honoured or refused
    effort: str | None = None  # likewise
    setting: ReasoningSetting = "auto"  # the model's own: followed as far as the model can
    neutral_effort: str = "medium"  # asks nothing of a model without levels


class ReasoningPlan(NamedTuple):
    """Variables for the template, and what has to follow the prompt that it makes."""

    template_kwargs: dict[str, Any]
    is_on: bool = False
    tags: tuple[str, str] | None = None  # the block to open or to close by hand; None: the template does it

    def finish(self, prompt: str) -> str:
        """The prompt with the block opened or closed."""
        if self.tags is None:
            return prompt
        opening, closing = self.tags
        is_open = prompt.rstrip().endswith(opening.rstrip())
        if self.is_on:
            return prompt if is_open else f"{prompt}{opening}\n"
        return f"{prompt.rstrip() if is_open else prompt + opening}\n\n{closing}\n\n"


class ReasoningSwitch:
    """What one model's template and format allow."""

    def __init__(self, source: str, parser: ReasoningParserClass | None, try_render: TryRender) -> None:
        def differs(name: str, one: Any, other: Any) -> bool:
            if name not in source:
                return False
            texts = [try_render(_USER, **{name: value}) for value in (one, other)]
            return all(texts) and texts[0] != texts[1]

        self._parser = parser
        self._switch = next((name for name in _SWITCHES if differs(name, True, False)), None)
        self._has_levels = differs(_EFFORT, "low", "high")
        # Templates that print any word would print "none" too, which switches nothing off.
        knows_none = not self._has_levels or _LEVEL_NONE.search(source) is not None
        self._has_level_none = knows_none and differs(_EFFORT, "none", "high")
        self._tags = (
            (parser.opening, parser.closing) if parser is not None and issubclass(parser, ThinkParser) else None
        )
        self._can_be_off = self._tags is not None or self._switch is not None or self._has_level_none
        self._try_render = try_render

    def plan(self, wish: ReasoningWish, template_kwargs: dict[str, Any], *, continues: bool) -> ReasoningPlan:
        """What the wishes come to. `continues`: the prompt ends within the answer, where no block can be opened.

        The client's own variables for the template win over the model's setting, its fields over both. Raises
        RequestRejected, naming the field.
        """
        wanted, field = wish.enable_thinking, "enable_thinking"
        if wanted is None and wish.effort == "none":
            wanted, field = False, _EFFORT
        kwargs = dict(template_kwargs)
        if wish.effort not in (None, "none"):
            kwargs |= self._plan_effort(str(wish.effort), wish.neutral_effort)
        if wanted is None and self._switch not in template_kwargs and _EFFORT not in kwargs:
            wanted, kwargs = self._follow_setting(wish.setting, kwargs)
        if wanted is None:
            return ReasoningPlan(kwargs)
        return self._plan_switch(kwargs, wanted, field, continues=continues)

    def _follow_setting(self, setting: ReasoningSetting, kwargs: dict[str, Any]) -> tuple[bool | None, dict[str, Any]]:
        """What the model's own setting asks of this model: of one that cannot but think, to think little."""
        if setting == "auto" or self._parser is None:
            return None, kwargs
        if setting == "off" and not self._can_be_off:
            return None, kwargs | ({_EFFORT: "low"} if self._has_levels else {})
        return setting == "on", kwargs

    def _plan_switch(self, kwargs: dict[str, Any], wanted: bool, field: str, *, continues: bool) -> ReasoningPlan:
        if self._switch is not None:
            return ReasoningPlan(kwargs | {self._switch: wanted})
        if self._has_level_none:
            return ReasoningPlan(kwargs | {_EFFORT: kwargs.get(_EFFORT, "high") if wanted else "none"})
        if self._parser is None and wanted:
            raise unsupported("This model does not reason.", field)
        if self._parser is not None and not wanted and not self._can_be_off:
            raise unsupported("This model's reasoning cannot be switched off.", field)
        if self._tags is None or continues:
            return ReasoningPlan(kwargs)
        return ReasoningPlan(kwargs, wanted, self._tags)

    def _plan_effort(self, effort: str, neutral: str) -> dict[str, Any]:
        """Raises RequestRejected, unless the level is one that the template takes or the neutral one."""
        has_level = self._has_levels or self._has_level_none
        if has_level and self._try_render(_USER, **{_EFFORT: effort}):
            return {_EFFORT: effort}
        if effort == neutral:
            return {}
        raise unsupported(f"This model has no reasoning effort {effort!r}.", _EFFORT)
