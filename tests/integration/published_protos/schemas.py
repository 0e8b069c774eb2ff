"""Manifests, a JSON list on standard input, held to the published schemas of Kubernetes.

Runs in an environment of its own. Prints a JSON list: for each what is wrong, empty if nothing is,
null if the kind is none of Kubernetes' own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import kubernetes_validate as schemas


def wrong(manifest: dict[str, Any]) -> str | None:
    try:
        schemas.validate(manifest, schemas.latest_version(), strict=True)
    except schemas.SchemaNotFoundError:
        return None
    except schemas.ValidationError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    json.dump([wrong(each) for each in json.load(sys.stdin)], sys.stdout)
