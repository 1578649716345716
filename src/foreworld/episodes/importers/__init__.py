"""Readers of foreign formats; each fills an `EpisodeStore` or changes nothing."""

from foreworld.episodes.importers.csv import import_csv as import_csv
