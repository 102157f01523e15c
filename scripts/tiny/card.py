"""The model's card, README.md: what it is, what it says, how it scores and where it fails.

In: the data of MODEL.json, the scores and ten samples. Out: the page. Nothing in it is edited by
hand, so that it is true of the weights beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Sample = tuple[str, str]  # a prompt and what the model made of it

SAMPLE_PROMPTS: tuple[tuple[str, bool], ...] = (  # and whether it is asked in the chat template
    ("What is Manyhands?", True),
    ("So what would a block be?", True),
    ("What happens when a node dies?", True),
    ("My name is Zoe. What is my name?", True),
    ("What is 7 + 8?", True),
    ("Count from 3 to 9.", True),
    ("What is the capital of Norway?", True),
    ("Explain the theory of relativity.", True),
    ("Tell me a story about a girl named Ivy.", True),
    ("Once upon a time, there was a brave boy named Omar.", False),
)

_PAGE = """\
# tiny

The model that comes with Manyhands: a Llama of {n_blocks} blocks and {n_parameters:,} parameters.
It answers short questions about Manyhands and a few other things, counts, adds, remembers a name
and tells short stories. It is there for tours and tests with no network, not for use.

Licence: {licence}. It was trained on text that `scripts/tiny/corpus.py` makes up from a seed, and
on nothing else.

## How it was made

```
{train_command}
```

On one thread of a CPU, with {versions}.

{steps:,} steps of {tokens:,} tokens in windows of whole documents; Muon for the matrices of the
blocks, AdamW for the rest, a cosine over the steps; products in bf16, all else and the weights in
fp32. The same seed, steps, versions and processor give the same bytes. `MODEL.json` has the recipe
and the sha256 of every file.

## Scores

Held-out loss: **{held_out_loss:.3f}** nats per written token, on documents from the same
generator that no step drew. It says how well the model knows this text, and nothing about others.

```
{score_command}
```

asks 100 questions and wants 50 stories, greedily, in wordings that the training text does not have
(`tests/test_tiny_model.py` checks that). A question is right when the answer has the expected
words and ends; a story, when the name of its first sentence is the only one and acts to the end.
The training wordings were widened once after a shorter training had been scored with these same
questions (93, 40 and 50), so they are held out, but not blind.

| | score | bar |
|---|---|---|
{rows}

By topic: {topics}.

## Ten samples

Greedy and unedited. All but the last are asked in the chat template.

{samples}

## Limits

* It knows about two hundred facts in the shapes of its training text. Asked about anything else it
  mostly gives one of its own answers, which is then wrong.
* It adds numbers from 0 to 10 and takes away from at most 10; it counts to 20.
* It was trained on documents of at most {window} tokens. Up to {context} are accepted, but it makes
  little sense beyond what it was trained on.
* Stories come from one family of plots.
* It is English only, and nobody has tested it for anything that matters.
"""


def write_card(
    data: Mapping[str, Any],
    outcomes: Sequence[tuple[str, int, int, int]],
    topics: Mapping[str, tuple[int, int]],
    samples: Sequence[Sample],
    context: int,
) -> str:
    """The page; `outcomes` are (name, score, of how many, bar), `topics` (right, asked)."""
    recipe = data["recipe"]
    return _PAGE.format(
        n_blocks=data["n_blocks"],
        n_parameters=data["n_parameters"],
        licence=data["licence"],
        versions=", ".join(f"{name} {version}" for name, version in data["versions"].items()),
        seed=recipe["seed"],
        steps=recipe["steps"],
        tokens=recipe["n_windows"] * recipe["n_tokens"],
        held_out_loss=data["held_out_loss"],
        train_command=(
            f"python {data['made_by']} --out DIRECTORY"
            f" --seed {recipe['seed']} --steps {recipe['steps']}"
        ),
        score_command="python scripts/score_tiny.py",
        rows="\n".join(f"| {name} | {got} of {n} | {bar} |" for name, got, n, bar in outcomes),
        topics=", ".join(f"{name} {right} of {n}" for name, (right, n) in topics.items()),
        samples="\n\n".join(f"> {prompt}\n\n{_quoted(text)}" for prompt, text in samples),
        window=recipe["n_tokens"],
        context=context,
    )


def _quoted(text: str) -> str:
    return f"```\n{text}\n```"
