"""Tumour growth under chemo- and radiotherapy: a second treatment on the same engine (`treatment/tumour`)."""
