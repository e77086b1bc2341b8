"""Dead letters an operator can work with: reading, choosing, sending again, and removing them."""
