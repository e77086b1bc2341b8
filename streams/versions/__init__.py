"""The part of a process in its feature version: what it pins, and that it lives."""
