"""The section `cluster`: the same run on many machines, through Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cotdistill.sections import Section


class ClusterConfig(Section):
    """Where a run's work is done, in how many places, and where these keep what was bought."""

    engine: Literal["ray"] = Field("ray", description="Ray: pip install 'cotdistill[ray]'")
    address: str = Field(
        "auto", description="auto: the cluster that this machine is a part of; local: one made here; or host:port"
    )
    store: str = Field(
        "",
        description="completions bought: a folder that all machines see, or s3://bucket/path; none: RUNS/store.parts",
    )
    shards: int = Field(256, ge=1, le=65536, description="parts of the questions; of a store, once and for all")
    workers: int = Field(0, ge=0, description="shards at once; 0: one for each GPU if models are asked, else each node")
    train_workers: int = Field(1, ge=1, description="processes that train a student together, on a GPU each if any")

    @field_validator("store")
    @classmethod
    def _without_a_secret(cls, store: str) -> str:
        if "@" in store.partition("://")[2].partition("/")[0] or "?" in store:
            raise ValueError("a secret has no place in it; the environment of each machine has what its URL needs")
        return store

    @field_validator("address")
    @classmethod
    def _not_through_a_client(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "a run cannot go through Ray's client; start it on a machine of the cluster, with address: auto"
            )
        return address
