"""Hostile listings (`corpus.jsonl`, see `evaluation/attacks.py`) and the model that obeys them."""
