"""A client of the Hugging Face hub, and nothing else."""

from .address import Address, check_name, read_address
from .client import Repository, download, errors_about, is_offline, look_up, read_range, snapshot

__all__ = [
    "Address",
    "Repository",
    "check_name",
    "download",
    "errors_about",
    "is_offline",
    "look_up",
    "read_address",
    "read_range",
    "snapshot",
]
