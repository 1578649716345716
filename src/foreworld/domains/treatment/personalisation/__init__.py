"""Does the model learn the person, and does it notice when the person changes? `treatment/personalisation`."""
