"""The published benchmark of the tumour domain: its test sets, its comparators and the protocol `treatment/tumour`."""
