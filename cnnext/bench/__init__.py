"""Measuring our layers beside torch's: what ``cnnext bench`` and the files of ``bench/`` share."""
