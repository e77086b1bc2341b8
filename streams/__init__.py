"""Kafka: topics, lanes, acknowledgement, dead letters, the worker and the `freshet` command line."""
