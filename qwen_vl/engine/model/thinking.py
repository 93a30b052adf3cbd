"""What a caller wishes about thoughts -> what the checkpoint's chat template is told.

Templates differ: some always open a thought, some take a switch, some degrees of effort. Each was
asked which it takes when the model was loaded (`efforts_of`), so none can fail at a request.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from qwen_vl.engine.thoughts import CLOSE, OPEN
from qwen_vl.errors import Unsupported
from qwen_vl.sampling import EFFORTS, SamplingParams
from qwen_vl.schema import Family

_BLANKS = " \nĠĊ"  # also as byte-level tokens write them
_ASKED = [{"role": "user", "content": "?"}]


def efforts_of(tokenizer: Any) -> tuple[str, ...]:
    """The degrees of effort that a template takes, the least first; () where it knows none."""
    if "reasoning_effort" not in tokenizer.chat_template:
        return ()
    return tuple(effort for effort in EFFORTS if _renders(tokenizer, reasoning_effort=effort))


def closing_of(tokenizer: Any) -> str:
    """What ends a thought: what stands after an empty one in the template, else Qwen's usual."""
    written = ""
    if "enable_thinking" in tokenizer.chat_template:
        written = rendered(tokenizer, enable_thinking=False).rpartition(CLOSE)[2]
    return "\n" + CLOSE + (written or "\n\n")


def keeps_answers(tokenizer: Any) -> bool:
    """Whether a later prompt begins with an earlier one and its answer, word for word.

    Many templates drop an earlier answer's thought, or the empty one in its place.
    """
    prompt = rendered(tokenizer)
    thought = "t" if opens_thought(prompt) else ""
    answered = {"role": "assistant", "content": "a", "reasoning_content": thought}
    later: str = tokenizer.apply_chat_template(
        [*_ASKED, answered, *_ASKED], tokenize=False, add_generation_prompt=True
    )
    return later.startswith(prompt + (thought and thought + closing_of(tokenizer)) + "a")


def opens_thought(prompt_end: str) -> bool:
    """Whether an answer that follows this, as text or as tokens, begins inside a thought."""
    return prompt_end.rstrip(_BLANKS).endswith(OPEN)


def rendered(tokenizer: Any, **arguments: Any) -> str:
    """A prompt for an answer."""
    text: str = tokenizer.apply_chat_template(
        _ASKED, tokenize=False, add_generation_prompt=True, **arguments
    )
    return text


def arguments_for(params: SamplingParams, family: Family, template: str) -> dict[str, Any]:
    """The template's arguments. Raises Unsupported for a wish that this model cannot fulfil."""
    wish, effort = params.thinks, params.reasoning_effort
    field = "reasoning_effort" if params.enable_thinking is None else "enable_thinking"
    if wish and family.thinking == "never":
        raise Unsupported(f"This model does not think: leave '{field}' out.")
    if wish is False and family.thinking == "always":
        raise Unsupported(
            f"This model always thinks: leave '{field}' out, or bound the thought with "
            "'thinking_budget'."
        )
    told: dict[str, Any] = {}
    if wish is not None and family.thinking == "switched":
        told["enable_thinking"] = wish
    if wish and effort and family.efforts:
        told["reasoning_effort"] = _nearest(effort, family.efforts)
    if params.preserve_thinking is not None:
        if "preserve_thinking" in template:
            told["preserve_thinking"] = params.preserve_thinking
        elif params.preserve_thinking:
            raise Unsupported(
                "This model's chat template keeps no earlier thoughts: leave 'preserve_thinking' "
                "out."
            )
    return told


def _nearest(effort: str, known: tuple[str, ...]) -> str:
    """The known degree that is asked for, else the next higher one, else the highest."""
    wanted = EFFORTS.index(effort)
    return next((one for one in known if EFFORTS.index(one) >= wanted), known[-1])


def _renders(tokenizer: Any, **arguments: Any) -> bool:
    try:
        rendered(tokenizer, **arguments)
    except TemplateError:
        return False
    return True
