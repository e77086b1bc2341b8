"""How lanes and jobs are given what they share: `resources.py` puts it together, the other modules are its parts."""
