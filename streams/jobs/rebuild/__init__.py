"""Redis made anew from the log, and compared with it: no language model, no encoder, no reasoner is asked."""
