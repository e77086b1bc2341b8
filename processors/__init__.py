"""What happens to a message: distil, embed, fold, choose, reason. Knows nothing of Kafka, Faust or HTTP."""
