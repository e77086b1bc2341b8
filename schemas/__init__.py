"""Contracts and files: Avro schemas (`*.avsc`, every past version kept), their codec, and the file formats of catalogues,
event logs and knowledge. Knows nothing of Kafka or Redis.
"""
