"""A server on this machine that speaks S3, for tests of runs that are kept there."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "runs"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-that-no-file-may-hold",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ObjectStore:
    """Moto's server, which can be away for a while and keeps what it has."""

    def __init__(self) -> None:
        self._port = 0
        self.start()
        client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self._port}", region_name="us-east-1"
        )
        client.create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def uri(self, name: str) -> str:
        """Of a folder that is new to the server if nobody else has taken the name."""
        query = f"endpoint_override=127.0.0.1:{self._port}&scheme=http&region=us-east-1"
        return f"s3://{BUCKET}/{name}?{query}"


@contextmanager
def object_store() -> Generator[ObjectStore]:
    """Starts a server and lends this process and its children what it takes to use it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    server = ObjectStore()
    try:
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
