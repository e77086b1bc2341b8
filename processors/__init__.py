"""What happens to a message: distill, embed, fold, choose, reason. Knows nothing of Kafka, Faust or HTTP."""
