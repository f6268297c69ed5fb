"""The duties of a member, one module each, all of the same shape: `run` until cancelled."""
