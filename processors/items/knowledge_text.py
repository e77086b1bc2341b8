"""The text an item, and what is known of it, is encoded from. Owns the templates; their text is part of a version."""

from __future__ import annotations

from freshet.records import Item, ItemKnowledge

_KINDS = (("audience", "For"), ("occasion", "When"), ("purpose", "To"), ("complement", "With"))


def item_text(item: Item) -> str:
    """Title, brand, category, attributes and description as one text; no price."""
    parts = [item.title, item.brand, " > ".join(item.category)]
    parts += [f"{name.replace('_', ' ')}: {value}" for name, value in sorted(item.attributes.items())]
    parts.append(item.description)
    return ". ".join(part.strip() for part in parts if part.strip())


def knowledge_text(item: Item, knowledge: ItemKnowledge) -> str:
    """The item text and what was distilled, plain facts first."""
    facts = [claim.value for claim in knowledge.claims if claim.kind == "attribute"]
    parts = [item_text(item), knowledge.summary, ", ".join(facts)]
    for kind, word in _KINDS:
        values = [claim.value for claim in knowledge.claims if claim.kind == kind]
        if values:
            parts.append(f"{word} {', '.join(values)}")
    return ". ".join(part.strip(" .") for part in parts if part.strip(" ."))
