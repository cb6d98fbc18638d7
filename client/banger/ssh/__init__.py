"""ssh into guests: the user's key, host keys known beforehand, how to reach sshd, and the user's ssh configuration.

OpenSSH does the talking. No private key is sent anywhere, and nothing here runs with more rights than the user's.
"""
