"""Feeds: connect to exchanges, read what they say, publish it, close its gaps."""
