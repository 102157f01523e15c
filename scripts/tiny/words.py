"""The word lists that stories and tasks draw from."""

from random import Random


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


GIRLS = listed(
    "Zoe Lily Mia Anna Emma Nora Ella Lucy Ruby Ivy Amy Sara Lena Maya Clara Rosa Tina Eva Ida "
    "Jane Kate Lola Mary Nina Olga Paula Rita Sofia Tara Vera Wendy Yara Alice Bella Cleo Dora "
    "Elsa Fiona Grace Hanna Iris Julia Kira Laila Mona Nadia Opal Priya Rachel Stella"
)
BOYS = listed(
    "Tom Ben Max Leo Sam Tim Jack Finn Noah Oscar Paul Adam Hugo Ivan Karl Luke Mark Nick Omar "
    "Peter Ravi Simon Theo Victor Wim Yusuf Alex Bruno Carlos David Eric Felix George Henry "
    "Ismail James Kevin Liam Marco Nathan Oliver Philip Robert Stefan Thomas Umar Walter "
    "Zack Amir Dan"
)
PETS = ("dog", "cat", "horse", "rabbit", "parrot", "fish", "hamster", "turtle")
RELATIVES = ("friend", "sister", "brother", "teacher", "neighbour", "cousin", "mother", "father")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "golden", "silver", "brown", "pink")
THINGS = listed(
    "ball book hat kite box boat drum lamp bell cup map coin ring basket blanket flute button key "
    "shell spoon"
)
FRUITS = listed("apples pears plums cherries nuts eggs cookies stones books coins pens balls")
FOODS = listed("bread soup rice cake cheese honey pasta salad fish pizza")
PLACES = listed(
    "forest garden river hill beach village park farm lake meadow market mill bridge school"
)
ANIMALS = listed(
    "frog mouse fox bird rabbit hedgehog duck squirrel owl turtle cat dog bee goat deer beaver"
)
NUMBER_WORDS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)

_STARTS = listed("B Ch D F G H J K L M N P R S T V Z Br Dr Gr Kl St Tr")
_VOWELS = listed("a e i o u ai ea oo")
_ENDS = listed("n r l k m s t x")


def name(rng: Random, *, invented: float = 0.3) -> str:
    """A first name; now and then one nobody has, so that copying has to be learnt."""
    if rng.random() >= invented:
        return rng.choice(GIRLS + BOYS)
    syllables = [rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 2))]
    return "".join(syllables).capitalize() + rng.choice(["", *_ENDS])


def word(rng: Random) -> str:
    """Some common noun of the lists."""
    return rng.choice(rng.choice((THINGS, PLACES, ANIMALS, COLOURS, FOODS)))
