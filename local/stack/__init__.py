"""The embedded stack: Kafka, Valkey and vLLM as supervised child processes, for the demo, tests and a laptop."""
