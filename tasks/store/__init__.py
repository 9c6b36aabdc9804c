"""Datasets in object stores: published there by one conditional put, and read from there."""
