"""Contracts and files: Avro schemas (`*.avsc`, every past version kept), their codec, and the formats of files with
catalogues, event logs and knowledge. Knows nothing of Kafka or Redis.
"""
