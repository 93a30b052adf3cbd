"""Strings to print on pictures: words, pseudo-words, numbers, prices, codes, dates.

Knows what short printed strings look like. Knows nothing of pictures, questions or tokens.
"""

from __future__ import annotations

import random

from fonts import CHARS, DIGITS, LETTERS

COMMON = (
    "apple bread cheese coffee tea milk water sugar salt pepper orange lemon banana grape melon "
    "house street city garden river lake sea beach forest mountain valley road bridge station park "
    "open closed sale exit enter push pull stop wait start finish ready order number total price "
    "table chair window door lamp phone paper pencil book letter ticket train plane boat bus taxi "
    "morning evening night today tomorrow monday tuesday friday sunday spring summer autumn winter "
    "january march april june july august october december hello welcome thank please sorry great "
    "red green blue white black silver golden little big small large happy quick quiet bright warm "
    "music movie camera school office market museum library hotel kitchen shop store bank post "
    "doctor teacher driver artist writer baker farmer pilot captain king queen friend family child "
    "report meeting project budget plan design note list email invoice date name address client "
    "north south east west left right upper lower first second third last next new old fresh hot "
    "cold daily weekly free special offer menu soup salad pizza pasta rice fish chicken beef cake "
    "quiz jazz fox zebra wizard oxygen kiwi yoga vivid unique equal quality jacket project hazel"
).split()
SYLLABLES = (
    "ba be bi bo bu ca ce co cu da de di do du fa fe fi fo ga ge go gu ha he hi ho ja jo ka ke ki "
    "la le li lo lu ma me mi mo mu na ne ni no nu pa pe pi po qu ra re ri ro ru sa se si so su ta "
    "te ti to tu va ve vi vo wa we wi wo xa xi ya yo za ze zi zo an en in on un ar er or al el il "
    "st tr pl ch sh th ck nd ng mp"
).split()
FIRST = (
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Karin Leo Maria Nora Oscar Paul Quinn "
    "Rosa Sam Tina Uma Victor Wendy Xavier Yara Zoe Alice Bruno Carla Diego Elena Frank"
).split()
LAST = (
    "Adams Baker Clark Davis Evans Fischer Garcia Huang Irwin Jones Klein Lopez Miller Novak Olsen "
    "Parker Quist Rossi Smith Tanaka Usman Vogel Walker Xu Young Zhang Brown Costa Dubois Wong"
).split()


def cased(word: str, rng: random.Random) -> str:
    """The word in lower, Title or UPPER case."""
    return rng.choice((str.lower, str.title, str.upper))(word)


def made_up(rng: random.Random) -> str:
    """A word that nobody has seen, 2 to 10 lower letters: it must be read, not guessed."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))[:10]


def word(rng: random.Random) -> str:
    """A common word or, two times in five, a made-up one, 2 to 10 letters."""
    return cased(rng.choice(COMMON) if rng.random() < 0.6 else made_up(rng), rng)


def label(rng: random.Random) -> str:
    """What may stand under a bar: a word, a made-up one, a code, a year, a word with a number."""
    one, short = made_up(rng).title(), f"{rng.choice(LETTERS[:26])}{rng.randrange(10)}"
    return rng.choice((
        one, one, one, rng.choice(COMMON).title(), code(rng), str(rng.randint(1950, 2040)),
        f"{one} {rng.randint(1, 12)}", one.upper(), short,
    ))  # fmt: skip


def number(rng: random.Random) -> str:
    """An integer, a decimal number, a percentage or a grouped number."""
    kind = rng.randrange(5)
    if kind == 0:
        return str(rng.randrange(10))
    if kind == 1:
        return str(rng.randrange(10 ** rng.randint(2, 6)))
    if kind == 2:
        return f"{rng.randrange(1000)}.{rng.randrange(10 ** rng.randint(1, 2))}"
    if kind == 3:
        return f"{rng.randrange(101)}%"
    return f"{rng.randint(1, 99)},{rng.randrange(1000):03d}"


def price(rng: random.Random) -> str:
    """An amount of money with two decimals and a currency sign."""
    amount = f"{rng.randrange(10 ** rng.randint(1, 4))}.{rng.randrange(100):02d}"
    sign = rng.choice("$$€")
    return rng.choice((f"{sign}{amount}", f"{sign}{amount}", f"{amount} {sign}"))


def code(rng: random.Random) -> str:
    """A product or invoice code such as AB-1234 or INV-00817."""
    letters = "".join(rng.choice(LETTERS[:26]) for _ in range(rng.randint(1, 3)))
    digits = "".join(rng.choice(DIGITS) for _ in range(rng.randint(2, 5)))
    kind = rng.randrange(3)
    if kind == 0:
        return f"{letters}-{digits}"
    if kind == 1:
        return f"{letters}{digits}"
    return f"#{digits}"


def date(rng: random.Random) -> str:
    """A date or a time of day."""
    year, month, day = rng.randint(1990, 2035), rng.randint(1, 12), rng.randint(1, 28)
    kind = rng.randrange(5)
    if kind <= 1:
        return f"{year}-{month:02d}-{day:02d}"
    if kind == 2:
        return f"{day:02d}/{month:02d}/{year}"
    if kind == 3:
        return f"{day:02d}.{month:02d}.{year}"
    return f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"


def person(rng: random.Random) -> str:
    """First and last name."""
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def marked(rng: random.Random) -> str:
    """Words with marks around them: an address, a label with a colon, a shout."""
    kind = rng.randrange(7)
    one, two = word(rng), word(rng)
    return (
        f"{one.lower()}@{two.lower()}.com",
        f"{one}:",
        f"{one}!",
        f"({one})",
        f"{one}, {two}",
        f"{one} & {two}",
        f"{one}?",
    )[kind]


def scramble(rng: random.Random) -> str:
    """Random characters: nothing to guess from, every glyph has to be read."""
    return "".join(rng.choice(CHARS) for _ in range(rng.randint(2, 10)))


def item(rng: random.Random) -> str:
    """One printed string of any of the kinds above."""
    kinds = (word, word, word, word, number, price, code, date, person, marked)
    return rng.choice(kinds)(rng)
