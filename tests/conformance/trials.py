"""Which clients are tried, and what each needs."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """package: whose version is told. recipes: pages of docs/recipes that its environment runs.

    borrows: finds our own environment behind its own, for what it needs of torch.
    """

    name: str
    package: str
    recipes: tuple[str, ...] = ()
    is_node: bool = False
    borrows: bool = False

    @property
    def requirements(self) -> Path:
        kind = "json" if self.is_node else "txt"
        return HERE / "requirements" / f"{self.name}.{kind}"

    @property
    def lock(self) -> Path:
        """Of a client for Node: all that it brings, by hash."""
        return self.requirements.with_suffix(".lock.json")

    @property
    def program(self) -> Path:
        kind = "mjs" if self.is_node else "py"
        return HERE / "clients" / f"try_{self.name.replace('-', '_')}.{kind}"


TRIALS = {
    trial.name: trial
    for trial in (
        Trial(name="openai-node", package="openai", recipes=("openai-node",), is_node=True),
        Trial(name="litellm", package="litellm"),
        Trial(name="langchain-openai", package="langchain-openai", recipes=("langchain", "rag")),
        Trial(
            name="llama-index",
            package="llama-index-llms-openai-like",
            recipes=("llama-index",),
        ),
        Trial(name="instructor", package="instructor"),
        Trial(name="locust", package="locust"),
        Trial(name="lm-eval", package="lm-eval"),
        Trial(name="aider", package="aider-chat"),
        Trial(name="guidellm", package="guidellm", borrows=True),
    )
}
