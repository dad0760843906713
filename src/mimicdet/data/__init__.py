"""Reads data sets, checks, converts and cuts them, and makes batches of their images and boxes."""
