"""Words to fill the templates with, and the rule that keeps some of them out of training; knows no template."""

import random
import re
import string
import zlib
from collections.abc import Callable

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def listed(text: str, separator: str = " ") -> list[str]:
    """A list of words, written as one text."""
    return text.split(separator)


FIRST_NAMES = listed(
    "Ada Alan Alice Amir Anna Aria Ben Bo Carla Chen Clara Dana David Diego Ella Emma Eva Felix Finn Grace Hana Hugo "
    "Ines Iris Ivan Jade James Jin Joon Julia Kai Kim Lara Lea Leo Lena Liam Lina Lucas Luna Maria Marco Max Maya Mei "
    "Mia Mila Mina Nadia Nia Nina Noah Nora Olga Omar Oscar Otto Paul Pia Priya Ravi Rosa Ruth Sam Sara Sofia Tara "
    "Theo Tim Tom Uma Vera Victor Wei Will Yuki Yuna Zara Zoe"
)
CITIES = listed(
    "Amsterdam,Athens,Auckland,Bangkok,Barcelona,Beijing,Berlin,Bogota,Boston,Brussels,Budapest,Buenos Aires,Busan,"
    "Cairo,Cape Town,Chicago,Copenhagen,Dallas,Delhi,Denver,Dubai,Dublin,Edinburgh,Florence,Geneva,Glasgow,Hamburg,"
    "Hanoi,Helsinki,Hong Kong,Istanbul,Jakarta,Kyoto,Lagos,Lima,Lisbon,London,Los Angeles,Lyon,Madrid,Manila,Melbourne,"
    "Mexico City,Miami,Milan,Montreal,Moscow,Mumbai,Munich,Nairobi,Naples,New York,Oslo,Osaka,Paris,Porto,Prague,"
    "Rio de Janeiro,Riga,Rome,San Francisco,Santiago,Seattle,Seoul,Shanghai,Singapore,Sofia,Stockholm,Sydney,Taipei,"
    "Tallinn,Tokyo,Toronto,Turin,Valencia,Vancouver,Venice,Vienna,Warsaw,Washington,Zurich",
    ",",
)
ADJECTIVES = listed(
    "red blue green golden silver small big old young happy sad quiet loud fast slow bright dark tiny giant wooden "
    "friendly brave curious lazy snowy sunny purple orange yellow funny sleepy hungry wild gentle magic robotic"
)
CREATURES = listed(
    "cat dog fox horse owl bear rabbit robot dragon whale turtle penguin tiger lion mouse frog bird fish elephant "
    "astronaut pirate wizard knight chef sailor child panda monkey wolf bee butterfly unicorn car train boat tree house"
)
PLACES = listed(
    "moon beach mountain street roof bridge river table boat island garden forest desert castle train spaceship field "
    "kitchen library market snow lake cloud planet stage hill road tower ship sofa chair"
)
ACTIVITIES = listed(
    "dancing,sleeping,reading a book,playing guitar,eating pizza,riding a bike,flying,swimming,painting,drinking tea,"
    "surfing,cooking,singing,running,looking at the stars,wearing a hat,playing chess,holding a flower",
    ",",
)
TOPICS = listed(
    "football,climate change,black holes,the history of Rome,cooking pasta,electric cars,quantum computers,jazz,"
    "gardening,the French Revolution,chess openings,space travel,dinosaurs,coffee,volcanoes,poetry,the stock market,"
    "machine learning,whales,tennis,bread baking,photography,the Olympic games,solar power,ancient Egypt,board games,"
    "medieval castles,birds,marathon training,wine,sailing,mushrooms,the human brain,robots,mathematics,philosophy",
    ",",
)
_NOUNS = listed(
    "apple river stone window paper cloud table garden summer winter music market silver yellow little simple number "
    "letter button ticket bottle pencil basket candle mirror ladder engine ocean island forest butter sugar pepper "
    "coffee monday friday morning evening report invoice budget project server client engineer meeting holiday "
    "weather bread lemon carpet bridge castle doctor teacher student painter driver pilot window door key lamp clock"
)
_STARTS = listed(
    "B Br C Cal D Dra El F Fa G Gal H Har J Ka Kel L Lo M Mar N Ne Or P Pel Qu R Ro S Sha Sol T Tar Th U V Ve W Wil X "
    "Y Z Za Bel Cor Den Fen Gri Hol Ist Jor Lin Mor Nor Os Pri Ras Ster Tor Ul Vin Wes Yor Zel"
)
_MIDDLES = listed(
    "a e i o u ai ea io an en in on ar er or al el il ol ra ri ro la li lo ma mi na ni no va vi sa si ta to"
)
_ENDS = listed(
    "n r l s x ra na ly th ton ville berg mere dor dale ria lia ne me ka ko ta to va vin ford wick by stad ham mont ro "
    "len mar das nix zo bel"
)


def is_held_out(word: str) -> bool:
    """Whether a word is kept for evaluation: about one in ten, by a checksum, the same on every machine."""
    return zlib.crc32(word.encode()) % 10 == 0


def invented_word(rng: random.Random) -> str:
    """A capitalised word that reads like a name and most likely exists nowhere."""
    middles = "".join(rng.choice(_MIDDLES) for _ in range(rng.choice((1, 1, 2))))
    return (rng.choice(_STARTS) + middles + rng.choice(_ENDS)).capitalize()


def _split(rng: random.Random, make: Callable[[], str], held_out: bool) -> str:
    while is_held_out(word := make()) is not held_out:
        pass
    return word


def name(rng: random.Random, *, held_out: bool = False) -> str:
    """A person's or an assistant's name, three in four invented."""
    return _split(rng, lambda: invented_word(rng) if rng.random() < 0.75 else rng.choice(FIRST_NAMES), held_out)


def city(rng: random.Random, *, held_out: bool = False) -> str:
    """A city's name, one in two invented; now and then without capitals, as people type."""
    if rng.random() < 0.1 and not held_out:
        return rng.choice(CITIES).lower()
    return _split(rng, lambda: invented_word(rng) if rng.random() < 0.5 else rng.choice(CITIES), held_out)


def picture(rng: random.Random, *, held_out: bool = False) -> str:
    """What an image may show: "a red fox reading a book on the moon"."""

    def make() -> str:
        adjective = rng.choice(("", "", rng.choice(ADJECTIVES) + " "))
        subject = adjective + rng.choice(CREATURES)
        article = "an" if subject[0] in "aeiou" else "a"
        parts = [f"{article} {subject}"]
        if rng.random() < 0.5:
            parts.append(rng.choice(ACTIVITIES))
        if len(parts) == 1 or rng.random() < 0.6:
            parts.append(f"{rng.choice(('on', 'in', 'near', 'under', 'at'))} the {rng.choice(PLACES)}")
        return " ".join(parts)

    return _split(rng, make, held_out)


def phrase(rng: random.Random, low: int = 2, high: int = 6) -> str:
    """A few unrelated words, numbers and names, to be copied and not understood."""
    makers = (noun, noun, invented_word, number, code)
    return " ".join(rng.choice(makers)(rng) for _ in range(rng.randint(low, high)))


def noun(rng: random.Random) -> str:
    """One common lower-case noun."""
    return rng.choice(_NOUNS)


def number(rng: random.Random) -> str:
    """A number of one to five digits."""
    return str(rng.randrange(10 ** rng.randint(1, 5)))


def code(rng: random.Random) -> str:
    """An identifier as orders and tickets carry it: "TX-4821", "q7f2"."""
    letters = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.6:
        return f"{letters}{rng.choice(('-', '', '#', '_'))}{rng.randrange(10, 99999)}"
    return "".join(rng.choice(string.ascii_lowercase + string.digits) for _ in range(rng.randint(4, 8)))


def expand(rng: random.Random, template: str) -> str:
    """One reading of a template: each `[a|b|c]`, innermost first, becomes one of its alternatives."""
    while (match := _CHOICE.search(template)) is not None:
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    return template


_SMALL_WORDS = frozenset(listed("the a an do does is are can i how what of to me my please in for you it this"))
_OPENINGS = (
    "Hi, ",
    "Hello! ",
    "Please: ",
    "One question: ",
    "And ",
    "Ok, ",
    "So, ",
    "Hey, ",
    "I wonder: ",
    "Another question: ",
    "Could you tell me: ",
    "Now: ",
)
_CLOSINGS = (" please", " here", " in Atrium", " exactly", " then", " with this", " for me", " again", " actually")


def as_asked(rng: random.Random, question: str) -> str:
    """A question with the accidents of chat: openings, lost small words, no capitals, a slip of the keyboard.

    Only for questions that hold no word to be copied.
    """
    if rng.random() < 0.15:
        question = " ".join(w for w in question.split(" ") if w.lower() not in _SMALL_WORDS or rng.random() < 0.5)
    if rng.random() < 0.1:
        body = question.rstrip("?.!")
        question = body + rng.choice(_CLOSINGS) + question[len(body) :]
    if rng.random() < 0.2:
        question = question.replace("'", "")
    if rng.random() < 0.3:
        question = rng.choice(_OPENINGS) + question
    if rng.random() < 0.07 and len(question) > 8:
        at = rng.randrange(1, len(question) - 1)
        question = question[:at] + question[at + 1 :]
    if rng.random() < 0.2:
        question = question.lower()
    return as_typed(rng, question) if question else "?"


def as_typed(rng: random.Random, text: str) -> str:
    """The text as people type it: sometimes without capitals at the start, or without the end mark."""
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    if rng.random() < 0.04:
        text += rng.choice((" ", "  ", "\n", " " * rng.randint(3, 8)))
    return text
