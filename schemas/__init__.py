"""Avro contracts (`*.avsc`, every past version kept), their records and their codec. Knows nothing of Kafka."""
