"""Tar streams between this machine and a guest: made from the user's files, and taken in with every member checked.

Debian 12's tarfile has no filter for hostile archives, reads whole headers into memory and waits for seekable input;
hence a small reader of our own, which takes bytes as they come and knows no more than a copy needs.
"""
