"""JSON Merge Patch (RFC 7396)."""

from __future__ import annotations


def merge_patch(target: object, patch: object) -> object:
    """Return `target` with `patch` applied to it; neither is changed.

    In objects, null removes a member and everything else is merged; whatever is no object
    replaces what was there. The depth is bounded by whoever parsed the patch.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
