"""What the user reasoner is worth: `freshet evaluate reasoner`."""
