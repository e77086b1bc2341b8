"""Stands where Karapace would: the schema registry of the tests, in a container."""
