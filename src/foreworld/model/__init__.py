"""The model: encodes what was seen and done into a belief, predicts what actions lead to, reads it in units."""
