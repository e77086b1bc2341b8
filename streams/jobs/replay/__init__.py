"""Replay: records that were read before, through the same processors, into a version that lacks what came of them."""
