"""What the coordinator knows of tool_svc: its tools and workspaces, remembered for some seconds, and files by RPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbp.common.v1 import common_pb2
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc
from google.protobuf.json_format import MessageToDict

from coordinator_svc.requests import ScopeSpec
from llm.instance import ToolSpec
from svc_common.channel import call
from svc_common.errors import ErrorReason, ServiceError

logger = logging.getLogger(__name__)

READ_FILES = "read_files"


@dataclass(frozen=True)
class Catalogue:
    """Tools by name and the names of the workspaces."""

    tools: Mapping[str, tool_pb2.Tool]
    workspaces: frozenset[str]

    @property
    def specs(self) -> list[ToolSpec]:
        return [
            ToolSpec(tool.name, tool.description, MessageToDict(tool.parameters_schema)) for tool in self.tools.values()
        ]


class ToolsClient:
    def __init__(self, stub: tool_pb2_grpc.ToolServiceAsyncStub, *, patience: float, remember_seconds: float) -> None:
        self._stub = stub
        self._patience = patience
        self._remember_seconds = remember_seconds
        self._catalogue: Catalogue | None = None
        self._fetched = 0.0
        self._fetching = asyncio.Lock()

    async def catalogue(self) -> Catalogue:
        """Tools and workspaces. While tool_svc is away the last known ones serve on."""
        loop = asyncio.get_running_loop()
        async with self._fetching:
            if self._catalogue is None or loop.time() - self._fetched > self._remember_seconds:
                try:
                    tools, workspaces = await asyncio.gather(
                        call(self._stub.ListTools, tool_pb2.ListToolsRequest(), patience=self._patience),
                        call(self._stub.ListWorkspaces, tool_pb2.ListWorkspacesRequest(), patience=self._patience),
                    )
                    self._catalogue = Catalogue({tool.name: tool for tool in tools.tools}, frozenset(workspaces.names))
                except ServiceError as error:
                    if self._catalogue is None or error.reason is not ErrorReason.SERVICE_UNAVAILABLE:
                        raise
                self._fetched = loop.time()
            return self._catalogue

    async def warm_up(self) -> None:
        """Asks for the catalogue ahead of the first request."""
        try:
            await self.catalogue()
        except ServiceError as error:
            logger.info("tool_svc is not there yet: %s", error)

    async def describe(self, workspace: str, scope: ScopeSpec, max_paths: int) -> tool_pb2.DescribeWorkspaceResponse:
        request = tool_pb2.DescribeWorkspaceRequest(workspace=workspace, scope=to_scope(scope), max_paths=max_paths)
        return await call(self._stub.DescribeWorkspace, request, patience=self._patience)

    async def read_files(
        self, workspace: str, scope: ScopeSpec, paths: Sequence[str], *, snapshot_id: str, max_bytes_per_file: int
    ) -> tool_pb2.ReadFilesResponse:
        request = tool_pb2.ReadFilesRequest(
            workspace=workspace,
            scope=to_scope(scope),
            paths=paths,
            snapshot_id=snapshot_id,
            max_bytes_per_file=max_bytes_per_file,
        )
        return await call(self._stub.ReadFiles, request, patience=self._patience)


def to_scope(scope: ScopeSpec) -> common_pb2.Scope:
    return common_pb2.Scope(
        include_patterns=scope.include_patterns,
        directories=scope.directories,
        exclude_patterns=scope.exclude_patterns,
    )
