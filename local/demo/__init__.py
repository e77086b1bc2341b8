"""The main job on a real log, from nothing: `freshet demo`."""
