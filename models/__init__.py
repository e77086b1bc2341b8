"""Inference and training: LLM, encoder, aligner, diffusion network. Knows nothing of Kafka or Redis."""
