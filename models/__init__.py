"""Inference and training: LLM, encoder, aligner, diffusion network. Must not know Kafka or Redis."""
