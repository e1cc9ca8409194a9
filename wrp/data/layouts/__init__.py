"""Layouts of data sets: how the files of each lie, one file a layout."""
