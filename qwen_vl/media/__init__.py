"""Untrusted bytes in, safe pictures out: pictures, clips, their frames and limits."""
