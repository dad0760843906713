"""``make demo``: tree crowns in aerial photographs, from download to pictures, by the commands that users have."""
