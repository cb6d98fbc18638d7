"""What the measured machine has to know of the registry that images are pulled from."""

from tests.guest.machine import ALICE

REGISTRY = "127.0.0.1:5000"
CONFIG = f'insecure_registries = ["{REGISTRY}"]\n'
RULE = f"""
polkit.addRule(function(action, subject) {{
    if (action.id == "com.thaloco.banger1.image.pull-any" && subject.user == "{ALICE}")
        return polkit.Result.YES;
}});
"""
