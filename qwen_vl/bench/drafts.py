"""What drafts bring: answers that repeat their prompt, and free text, with drafts and without.

The answers are dictated, because random weights say nothing: in every pass the next word is made
the likeliest. All else is as for a user: the same passes, the same drafts, right and wrong ones.
Knows one engine and its tokenizer.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, TextPart, Usage

if TYPE_CHECKING:
    from qwen_vl.bench.baseline import SubjectEngine

RUN_TOKENS = 3  # in a row, and in the prompt too: such tokens of an answer are counted as copied
REPEATS = 3  # of each, in turns, so that both see the same machine; the middle one counts
AT_ONCE = 4

PAGE = """\
North Harbour Boat Club: minutes of the meeting of 14 March, held in the sail loft
Present: Ada Brandt (chair), Tomas Ek, Lin Okafor, Marie Duval, Peter Voss
1. The minutes of the last meeting were read and approved without changes.
2. The treasurer reported a balance of 4,812.60 after the winter repairs to the slipway.
3. The old crane will be inspected on 2 April; until then no boat over 900 kg may be lifted.
4. Lin Okafor showed two offers for new floats: Larsen & Sons, 2,350.00, and Bay Marine, 2,190.00.
5. It was decided to buy from Bay Marine, as they deliver before the season starts.
6. The youth group asks for a second safety boat on Wednesdays from May to September.
7. Tomas Ek will ask the neighbouring club whether their boat can be shared.
8. The summer regatta takes place on 21 and 22 June; helpers sign the list in the kitchen.
9. Next meeting: 11 April at half past seven in the evening, in the same place.
"""
READ_OUT = f"This is the text of a page:\n\n{PAGE}\nGive its lines as JSON, numbered."
FREE_QUESTION = "Explain in a few sentences why the sky is blue."
FREE_TEXT = """\
Sunlight looks white, yet it is a mixture of every colour that a rainbow shows. On its way down
it meets the molecules of the air, which are far smaller than a wave of light. Such small things
throw short waves aside much more strongly than long ones: violet and blue go off in all
directions, while red and yellow travel nearly straight on. Wherever you look, some of that
scattered glow reaches your eye, so the whole dome above seems to shine. Why is it not violet,
then? Less of that arrives, a part is swallowed high up, and our eyes respond to it only weakly.
In the evening the rays cross a longer stretch of atmosphere. Most of what is short has been
lost before they arrive, and what remains paints clouds orange or crimson. On the Moon, where
nothing scatters anything, noon is black and full of stars.
"""


@dataclass(frozen=True)
class Compared:
    """Tokens per second of the same answer, decoded both ways."""

    name: str
    drafted: float
    plain: float


def measure(engine: SubjectEngine, most_tokens: int) -> list[Compared]:
    """Answers of at most so many tokens: one that repeats, some at once, and free text."""
    assert engine.subject is not None
    loaded = engine.subject.loaded

    def tokens(text: str) -> list[int]:
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)[:most_tokens]

    repeats, free = tokens(_as_json(PAGE)), tokens(FREE_TEXT)
    share = share_of_copies(loaded.tokenizer(READ_OUT)["input_ids"], repeats)
    copied = f"{share:.0%} of which stands in the prompt"
    return [
        _compared(engine, f"an answer {copied}", READ_OUT, repeats),
        _compared(engine, f"{AT_ONCE} at once, {copied}", READ_OUT, repeats, AT_ONCE),
        _compared(engine, "free text", FREE_QUESTION, free),
    ]


def share_of_copies(prompt: Sequence[int], answer: Sequence[int]) -> float:
    """How much of an answer stands in its prompt, in runs of RUN_TOKENS tokens and more."""
    size = RUN_TOKENS
    known = {tuple(prompt[i : i + size]) for i in range(len(prompt) - size + 1)}
    copied: set[int] = set()
    for i in range(len(answer) - size + 1):
        if tuple(answer[i : i + size]) in known:
            copied.update(range(i, i + size))
    return len(copied) / max(1, len(answer))


def _as_json(page: str) -> str:
    lines = page.splitlines()
    rows = [f'{{"no":{i},"text":"{line}"}}' for i, line in enumerate(lines, 1)]
    return "[\n" + ",\n".join(rows) + "\n]"


def _compared(
    engine: SubjectEngine, name: str, question: str, answer: list[int], rows: int = 1
) -> Compared:
    engine.dictate([])
    prompt_tokens = _asked(engine, question, 1).prompt_tokens
    engine.dictate(answer, prompt_tokens)
    speeds: dict[str, list[float]] = {"auto": [], "off": []}
    for _ in range(REPEATS):
        for draft, told in speeds.items():
            engine.draft(draft)
            with ThreadPoolExecutor(rows) as pool:
                asked = [pool.submit(_asked, engine, question, len(answer)) for _ in range(rows)]
                told.append(sum(one.result().tokens_per_s for one in asked))
    engine.dictate([])
    engine.draft("auto")
    return Compared(name, statistics.median(speeds["auto"]), statistics.median(speeds["off"]))


def _asked(engine: SubjectEngine, question: str, new_tokens: int) -> Usage:
    params = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=new_tokens)
    *_, last = engine.stream([Message("user", (TextPart(question),))], params)
    assert last.usage is not None
    return last.usage
