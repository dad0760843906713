"""Tables, curves and pictures for people to look at."""
