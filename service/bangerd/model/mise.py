"""The mise of the default images: which one, where from, and what its archive must hash to.

To update: `npm view @jdxcode/mise-linux-x64@VERSION dist` gives `integrity`; SHA512 is that in hex
(`base64 -d | xxd -p -c 128`), SIZE the length of the archive. Compare with the binary of the same release on
GitHub (`sha512sum` of `package/bin/mise` and of `mise-vVERSION-linux-x64`), then run tests/guest/test_tooling.py.
"""

from bangerd.model.image import Package

VERSION = "2026.9.15"
SHA512 = (
    "06eb4f146cb3b4dd1193f1ce1ef1ee7fe5bcd0292f4110236c3587be11897373"
    "e72f77b62a10986483b28f1f303e486bf5525affbb09657a71b6de492e3b1f69"
)
SIZE = 52298098  # bytes; more is not taken from a mirror
NPM = "https://registry.npmjs.org"
# Where mise puts the programs that stand for the tools it installed, for root, who owns the workspaces.
SHIMS = "/root/.local/share/mise/shims"
PATH = f"{SHIMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def package(registry: str) -> Package:
    """The archive as that registry, or mirror of one, has it."""
    return Package(
        name="mise",
        version=VERSION,
        digest=f"sha512:{SHA512}",
        url=f"{registry}/@jdxcode/mise-linux-x64/-/mise-linux-x64-{VERSION}.tgz",
        license="MIT",
        project="https://github.com/jdx/mise",
    )
