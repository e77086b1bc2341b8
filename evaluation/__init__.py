"""What the models are worth, measured on data: each module is a command that prints its figures."""
