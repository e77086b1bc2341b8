"""Inference and training: LLM client, vLLM server, encoder, aligner, diffusion network. Knows nothing of Kafka or Redis."""
