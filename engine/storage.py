"""Where runs are kept: a folder on a file system, or in any store that ``pyarrow.fs`` knows.

    runs                                                     local, NFS
    s3://bucket/runs                                         S3; gs:// and others likewise
    s3://bucket/runs?endpoint_override=HOST:PORT&scheme=http  a server that speaks S3

Credentials come from the environment, as the store's own tools find them, and never from the URI:
a URI is shown in messages and travels to workers.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine.errors import UserError
from engine.folder import Folder
from engine.local_folder import LocalFolder
from engine.remote_folder import RemoteFolder

_IN_BUCKETS = ("s3", "gs", "gcs")


def open_folder(location: Path | str) -> Folder:
    """Returns a folder of a local path or a URI. Nothing is made or looked for yet.

    Raises:
        UserError: the URI is none, names no bucket, has credentials in it, or is of a kind that
            pyarrow does not know.
    """
    text = str(location)
    if "://" not in text:
        # Absolute, because workers have working directories of their own.
        return LocalFolder(Path(text).absolute())
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UserError(f"{text} is no URI: {error}") from None
    if parts.scheme == "file":
        return LocalFolder(Path(unquote(parts.path)))
    if parts.scheme in _IN_BUCKETS and not parts.netloc:
        raise UserError(f"{text} names no bucket; give {parts.scheme}://BUCKET/PATH")
    return RemoteFolder(text)
