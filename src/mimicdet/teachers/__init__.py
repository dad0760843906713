"""Defines teachers, which are there while training and never in what ships."""
