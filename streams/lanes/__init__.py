"""The lanes: what each does with a record. `table.py` lists them, `lane.py` says what a lane is."""
