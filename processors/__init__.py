"""What happens to a message: distill, embed, fold, choose, reason. Must not know Kafka, Faust or HTTP."""
