"""Kafka: topics, consumers, lanes, acknowledgement, dead letters, operator jobs, and the worker that runs them.

Each folder knows those before it: this one (errors, metrics, health, backoff, settings), `kafka`, `wiring`,
`consumers`, `lanes`, `versions`, `jobs`, `worker`.
"""
