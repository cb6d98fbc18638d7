"""Files and folders copied between this machine and a guest: `vm cp`. The user's half runs as the user."""
