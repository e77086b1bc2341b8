"""`docs/reference/protocols.md`: the interfaces through which parts of Freshet can be replaced.

Owns which Protocols are extension points. What each method must do, its docstring says.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "reference" / "protocols.md"

PROTOCOLS: dict[str, str] = {
    "models.llm.client.LanguageModel": "An LLM backend. Registered in `BACKENDS`, chosen by a setting.",
    "models.encoder.encoder.TextEncoder": "Text to vectors.",
    "models.encoder.aligner.Aligner": "The encoder's vectors to the space that all features are in.",
    "models.reasoner.reasoner.BehaviorReasoner": "What a user does beyond the log. Registered in `REASONERS`.",
    "models.reasoner.sampler.Denoiser": "The network that the sampler asks.",
    "streams.kafka.batch.Handler": "What a batch consumer does with a batch.",
    "streams.lanes.lane.Lane": "A consumer with its processing, as the worker runs it.",
    "freshet.metrics.ReadObserver": "Gets a call for each read in a ranker's process.",
}
"""Dotted name to the line above its docstring."""


def page() -> str:
    """The page, whole."""
    sections = [f"## {name.rpartition('.')[2]}\n\n{about}\n\n::: {name}\n" for name, about in PROTOCOLS.items()]
    return f"""# Protocols

<!-- made by python -m docs.generators.protocols_page; a test compares -->

Kafka, Redis, the LLM, torch and the clock reach the core through Python Protocols: a class with the same methods fits,
and nothing has to be inherited. These are the ones to implement when you add a part; where it is registered is in
[architecture](../design/architecture.md#where-to-add-things).

{chr(10).join(sections)}"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
