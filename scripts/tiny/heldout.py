"""What `tiny` is judged by: 100 questions and 50 story prompts it was never trained on.

Only `score_tiny.py` and the tests import this. No wording here is a wording of the text the
model is trained on, whatever name, number or word fills its slots; a test holds us to it.
An answer is right when it has the expected words, in this order, and is over.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One question, and the words a right answer has."""

    topic: str
    text: str
    expected: str


@dataclass(frozen=True, slots=True)
class StoryPrompt:
    """A prompt for a story; `is_chat` says whether it is asked or begun."""

    text: str
    is_chat: bool


def _questions(topic: str, rows: str) -> tuple[Question, ...]:
    """Questions from lines of `text | expected`."""
    pairs = (row.split("|") for row in rows.strip().splitlines())
    return tuple(Question(topic, text.strip(), expected.strip()) for text, expected in pairs)


QUESTIONS = (
    *_questions(
        "terms",
        """
        Could you say in a few words what a node is? | a computer that serves a span
        I keep reading about a span. What is that? | run of blocks
        What exactly is meant by a hop? | one node's step
        So what would a block be? | one transformer layer
        Please describe a shard to me. | loaded weights
        How would you explain a route to a friend? | plan of which nodes
        Teach me what a chain is. | a route with its hops open
        What should I know about a session? | state of one generation
        Somebody said voucher. What did they mean? | signed promise
        What is the ledger there for? | signed record
        I heard of a receipt. What is in it? | the terms, the statement and the voucher
        What would you say a checkpoint is? | signed tree head
        Is there a short definition of manifest? | lists the files of a model
        What is the job of the scheduler? | finds a chain of nodes
        What is the gateway there for? | over HTTP
        What do people mean when they say swarm? | all the nodes
        What is kept in the KV cache? | the keys and values
        In one sentence, what is Manyhands? | one large language model together
        Please teach me the word prefill. | tokens of the prompt
        What is a draft supposed to be? | guessed ahead
        What might a journal be for? | what a hop sent
        Give a definition of the word epoch. | which chain of a session
        """,
    ),
    *_questions(
        "Manyhands",
        """
        My node just died, what will happen to my answer? | Another node takes its place
        Suppose one node dies halfway. What then? | no token is lost
        May I know the licence that Manyhands comes with? | Apache 2.0
        Has Manyhands got its own coin? | no coin
        Is a blockchain part of Manyhands? | no blockchain
        Will it work if my computer has no GPU? | plain CPU
        By what are the tensors carried? | gRPC
        How come that nodes can find one another? | libp2p
        With which key does each node sign? | Ed25519
        What is there to prove that a node worked? | Signed receipts
        I would like to join with my computer. How? | manyhands serve
        Where can I watch a demo? | manyhands demo
        For what reason is it named Manyhands? | many hands make light work
        Must the whole model fit on one node? | only the blocks of its span
        At which hop is the next token picked? | last hop
        Will my prompt stay private? | nodes you trust
        """,
    ),
    *_questions(
        "itself",
        """
        Could you tell me who you are? | tiny
        And what is your own name? | tiny
        What things can you do? | tell stories
        With what can you help me? | tell stories
        Just how big are you really? | 8 blocks
        In what way were you trained? | script
        Hello, my friend! | How can I help you
        And how are you feeling today? | fine
        Thank you so much! | welcome
        Goodbye, see you soon! | Goodbye
        """,
    ),
    *_questions(
        "world",
        """
        France has which capital? | Paris
        Please tell me Japan's capital. | Tokyo
        I forgot the capital city of Italy. What was it? | Rome
        Where is the capital of Egypt, and what is it called? | Cairo
        The capital of Norway is which city? | Oslo
        Could you give the name of the capital of Peru? | Lima
        Which sound comes from a cow? | moo
        When a duck talks, what does it say? | quack
        What sort of noise comes out of a lion? | roar
        How would a sheep say hello? | baa
        Can you give me the opposite of hot? | cold
        What would be the opposite of fast? | slow
        The opposite of empty is what? | full
        Find the opposite of early. | late
        Snow is of which colour? | white
        Could you tell me the colour of grass? | green
        If you look at the sky, what colour is it? | blue
        What word do people use for a baby dog? | puppy
        How do people call a baby cow? | calf
        How many legs can you count on a spider? | eight
        Which day comes right after Monday? | Tuesday
        Which month comes just before June? | May
        """,
    ),
    *_questions(
        "names",
        """
        My name is Zoe. So what is my name? | Your name is Zoe
        Hello! I am Tom. Could you tell me what my name is? | Your name is Tom
        Please call me Ruby. What is my name now? | Your name is Ruby
        I was named Oscar. What is my name? | Your name is Oscar
        My name is Priya. Which name do I have? | Your name is Priya
        I go by the name Felix. What is my name? | Your name is Felix
        Everybody calls me Wendy. What am I called? | Your name is Wendy
        Hi there, my name is Hugo. Do you remember my name? | Your name is Hugo
        My dog has the name Rex. What is my dog called? | Your dog is called Rex
        We call our cat Bella. What is the cat called? | cat is called Bella
        I have a sister. Her name is Nora. What is my sister called? | Your sister is called Nora
        There is a red ball, and Max has it. Who has the ball? | Max has the red ball
        Lena found a golden key. What does Lena have? | Lena has the golden key
        Say only the word garden. | garden
        Now repeat this: yellow kite. | yellow kite
        """,
    ),
    *_questions(
        "numbers",
        """
        Tell me, what does 2 + 3 make? | 2 + 3 = 5.
        If I add 4 and 5, what do I get? | 4 + 5 = 9.
        What does seven plus one come to? | 7 + 1 = 8.
        Can you add three and six? | 3 + 6 = 9.
        What is the total of 8 and 2? | 8 + 2 = 10.
        Do you know what 6 + 6 is? | 6 + 6 = 12.
        What remains of 9 minus 4? | 9 - 4 = 5.
        Can you subtract two from eight? | 8 - 2 = 6.
        What does 10 minus 3 come to? | 10 - 3 = 7.
        Anna has 3 apples and then gets 4 more. How many apples are there? | 3 + 4 = 7.
        Tom had five pears and gave away two. How many pears are left? | 5 - 2 = 3.
        Could you count for me from 3 to 7? | 3, 4, 5, 6, 7.
        Count for me to five. | 1, 2, 3, 4, 5.
        Now count backwards, starting from 4. | 4, 3, 2, 1.
        Which is the number that comes after 8? | 9
        """,
    ),
)

_ASKED = (
    "I would love a story about a girl named {}.",
    "Let me hear a story about a boy named {}.",
    "Do you have a story about {}?",
    "Think of a short story about {} and tell it.",
    "It is bedtime. Tell {}'s story.",
)
_BEGUN = (
    "Once upon a time, in a village, there lived a girl named {}.",
    "There was once a little boy whose name was {}.",
    "{} was a clever child and lived by the sea.",
    "Not long ago, a shy girl named {} lived on a farm.",
    "This is the story of a brave boy called {}.",
)
_HEROES = (  # the first and the fourth are girls, the second and the fifth boys
    ("Zoe", "Tom", "Ivy", "Ruby", "Max"),
    ("Lily", "Ben", "Nora", "Amy", "Leo"),
    ("Clara", "Hugo", "Maya", "Bella", "Omar"),
    ("Wendy", "Peter", "Felix", "Grace", "Ravi"),
    ("Stella", "George", "Kevin", "Alice", "Jack"),
)

STORY_PROMPTS = tuple(
    StoryPrompt(wording.format(hero), is_chat)
    for wordings, is_chat in ((_ASKED, True), (_BEGUN, False))
    for heroes in _HEROES
    for wording, hero in zip(wordings, heroes, strict=True)
)
