"""Write the hashes of the offline suite's pictures anew, after VERSION in drawn/store.py was raised.

PARETUNE_CACHE=$(mktemp -d) python scripts/offline_hashes.py
"""

from __future__ import annotations

import json

from paretune.drawn.offline import OFFLINE, offline_parts
from paretune.drawn.store import HASHES, SEED, VERSION


def main() -> None:
    """Draw every task and write the SHA-256 of each of its parts."""
    known = {}
    for name in OFFLINE:
        parts = offline_parts(name, SEED, verify=False)
        known[name] = {part: data.describe()["fingerprint"] for part, data in parts.items()}
        print(name, flush=True)
    HASHES.write_text(json.dumps({"version": VERSION, "seed": SEED, "sha256": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
