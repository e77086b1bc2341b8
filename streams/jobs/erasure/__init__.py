"""What an erasure has to reach: histories and features, the topics that hold them, dead letters."""
