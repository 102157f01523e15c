"""Score the built-in model: does it answer, keep its protagonists, and stop by itself?

In: the model's directory (the built-in one by default). Out: a table, or with `--json` one
object. The exit status is 1 when it is below the bar. Greedy and on one thread: the same weights
give the same scores. The questions and the rules are in `tiny/heldout.py` and `tiny/judging.py`.

    python scripts/score_tiny.py [DIRECTORY] [--json] [--card] [--show]

`--card` writes the model's card, README.md, into its directory.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from tiny.card import SAMPLE_PROMPTS, write_card
from tiny.chat import ask
from tiny.heldout import QUESTIONS, STORY_PROMPTS
from tiny.judging import is_right, keeps_protagonist
from transformers import AutoModelForCausalLM, AutoTokenizer

BUILT_IN = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
MAX_NEW_TOKENS = 256
BARS = {"questions": 80, "stories": 40, "endings": 50}
OUT_OF = {"questions": 100, "stories": 50, "endings": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model made of one prompt."""

    topic: str
    prompt: str
    text: str
    is_right: bool
    has_ended: bool


class Speaker:
    """The model and its tokenizer, as anybody would load them."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    @torch.inference_mode()
    def say(self, prompt: str) -> tuple[str, bool]:
        """The greedy continuation, and whether it ended by itself."""
        inputs = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        out = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        new = out[0, inputs["input_ids"].shape[1] :]
        has_ended = new[-1].item() == self.model.generation_config.eos_token_id
        return self.tokenizer.decode(new, skip_special_tokens=True), has_ended


def answer_questions(speaker: Speaker) -> list[Reply]:
    replies = []
    for question in QUESTIONS:
        text, has_ended = speaker.say(ask(question.text))
        right = has_ended and is_right(text, question.expected)
        replies.append(
            Reply(
                topic=question.topic,
                prompt=question.text,
                text=text,
                is_right=right,
                has_ended=has_ended,
            )
        )
    return replies


def tell_stories(speaker: Speaker) -> list[Reply]:
    replies = []
    for prompt in STORY_PROMPTS:
        text, has_ended = speaker.say(ask(prompt.text) if prompt.is_chat else prompt.text)
        story = text if prompt.is_chat else prompt.text + text
        replies.append(
            Reply(
                topic="stories asked for" if prompt.is_chat else "stories begun",
                prompt=prompt.text,
                text=text,
                is_right=has_ended and keeps_protagonist(story),
                has_ended=has_ended,
            )
        )
    return replies


def summarize(answers: Sequence[Reply], stories: Sequence[Reply]) -> dict[str, int]:
    """The three scores. Endings: every second answer, 50 of them."""
    return {
        "questions": sum(reply.is_right for reply in answers),
        "stories": sum(reply.is_right for reply in stories),
        "endings": sum(reply.has_ended for reply in answers[::2]),
    }


def by_topic(replies: Sequence[Reply]) -> dict[str, tuple[int, int]]:
    """How many are right, and how many there are."""
    asked = Counter(reply.topic for reply in replies)
    right = Counter(reply.topic for reply in replies if reply.is_right)
    return {topic: (right[topic], n) for topic, n in asked.items()}


def print_table(replies: Sequence[Reply], scores: dict[str, int]) -> None:
    for topic, (right, n) in by_topic(replies).items():
        print(f"  {topic:20} {right:3} of {n:3}")
    for name, score, n, bar in outcomes(scores):
        print(f"{name:22} {score:3} of {n:3}   bar {bar:3}   {'ok' if score >= bar else 'BELOW'}")


def outcomes(scores: dict[str, int]) -> list[tuple[str, int, int, int]]:
    return [(name, scores[name], OUT_OF[name], bar) for name, bar in BARS.items()]


def make_card(
    directory: Path, speaker: Speaker, replies: list[Reply], scores: dict[str, int]
) -> None:
    samples = [
        (prompt, speaker.say(ask(prompt) if is_chat else prompt)[0].strip())
        for prompt, is_chat in SAMPLE_PROMPTS
    ]
    data = json.loads((directory / "MODEL.json").read_text())
    context = speaker.model.config.max_position_embeddings
    page = write_card(data, outcomes(scores), by_topic(replies), samples, context)
    (directory / "README.md").write_text(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=BUILT_IN)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--card", action="store_true", help="write the card, README.md")
    parser.add_argument("--show", action="store_true", help="print every reply that is not right")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speaker = Speaker(options.directory)
    answers, stories = answer_questions(speaker), tell_stories(speaker)
    scores = summarize(answers, stories)
    replies = [*answers, *stories]
    if options.card:
        make_card(options.directory, speaker, replies, scores)
    if options.json:
        content = [asdict(reply) for reply in replies]
        print(json.dumps({"scores": scores, "bars": BARS, "replies": content}, indent=1))
    else:
        for reply in replies if options.show else ():
            if not reply.is_right:
                print(f"[{reply.topic}] {reply.prompt}\n    -> {reply.text}")
        print_table(replies, scores)
    return 0 if all(scores[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
