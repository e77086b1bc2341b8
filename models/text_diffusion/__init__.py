"""The reasoner that asks a text diffusion LLM, over a server or in process, and grounds its words to the catalogue."""
