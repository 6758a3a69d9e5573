"""An S3-compatible server on loopback, moto's, as a process of its own.

with start_s3() as server:
    os.environ.update(server.environment)
    Parts("s3://bucket/parts")
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CODE = """
import logging, sys, threading
import boto3
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
endpoint = "http://%s:%d" % server.get_host_and_port()
boto3.client("s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b").create_bucket(
    Bucket="bucket"
)
print(endpoint, flush=True)
threading.Event().wait()
"""


@dataclass
class ObjectStore:
    process: subprocess.Popen[str]
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """How s3fs finds it, and its bucket named `bucket`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def start_s3() -> Iterator[ObjectStore]:
    """A server that is listening, killed at the end; all that it holds is in its memory."""
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield ObjectStore(process, process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1"))  # noqa: S104
        finally:
            process.kill()
