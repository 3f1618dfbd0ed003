# Made by `dev.py generate` from proto/afslet/v1/afslet.proto; do not edit.
from . import node_pb2 as _node_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_TYPE_DIR: _ClassVar[FileType]
    FILE_TYPE_FILE: _ClassVar[FileType]
    FILE_TYPE_SYMLINK: _ClassVar[FileType]

class Network(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NETWORK_UNSPECIFIED: _ClassVar[Network]
    NETWORK_NONE: _ClassVar[Network]
    NETWORK_HOST: _ClassVar[Network]

class DiffMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIFF_MODE_UNSPECIFIED: _ClassVar[DiffMode]
    DIFF_MODE_NONE: _ClassVar[DiffMode]

class EndReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    END_REASON_UNSPECIFIED: _ClassVar[EndReason]
    END_REASON_EXITED: _ClassVar[EndReason]
    END_REASON_SIGNALLED: _ClassVar[EndReason]
    END_REASON_TIMED_OUT: _ClassVar[EndReason]
    END_REASON_OUT_OF_MEMORY: _ClassVar[EndReason]
    END_REASON_NOT_RUN: _ClassVar[EndReason]
    END_REASON_LOG_LIMIT: _ClassVar[EndReason]
    END_REASON_DRAINED: _ClassVar[EndReason]
    END_REASON_NOT_KEPT: _ClassVar[EndReason]
FILE_TYPE_DIR: FileType
FILE_TYPE_FILE: FileType
FILE_TYPE_SYMLINK: FileType
NETWORK_UNSPECIFIED: Network
NETWORK_NONE: Network
NETWORK_HOST: Network
DIFF_MODE_UNSPECIFIED: DiffMode
DIFF_MODE_NONE: DiffMode
END_REASON_UNSPECIFIED: EndReason
END_REASON_EXITED: EndReason
END_REASON_SIGNALLED: EndReason
END_REASON_TIMED_OUT: EndReason
END_REASON_OUT_OF_MEMORY: EndReason
END_REASON_NOT_RUN: EndReason
END_REASON_LOG_LIMIT: EndReason
END_REASON_DRAINED: EndReason
END_REASON_NOT_KEPT: EndReason

class ExecuteRequest(_message.Message):
    __slots__ = ("start", "file_begin", "file_chunk", "file_end")
    START_FIELD_NUMBER: _ClassVar[int]
    FILE_BEGIN_FIELD_NUMBER: _ClassVar[int]
    FILE_CHUNK_FIELD_NUMBER: _ClassVar[int]
    FILE_END_FIELD_NUMBER: _ClassVar[int]
    start: StartRequest
    file_begin: FileEntryBegin
    file_chunk: FileChunk
    file_end: FileEntryEnd
    def __init__(self, start: _Optional[_Union[StartRequest, _Mapping]] = ..., file_begin: _Optional[_Union[FileEntryBegin, _Mapping]] = ..., file_chunk: _Optional[_Union[FileChunk, _Mapping]] = ..., file_end: _Optional[_Union[FileEntryEnd, _Mapping]] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("image", "tag", "command", "cpu_cores", "memory_mb", "timeout_ms", "discovery_addr", "force_local_fetch", "node_id", "platform_os", "platform_arch", "platform_variant", "proxy_dispatch_max_retries", "proxy_dispatch_backoff_ms", "env", "fuse_max_read_ahead_bytes", "docker_config_json", "working_dir", "user", "network", "disk_mb", "pids_max", "diff", "flist", "request_id", "entrypoint", "cap_add", "keep")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_ADDR_FIELD_NUMBER: _ClassVar[int]
    FORCE_LOCAL_FETCH_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_OS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_ARCH_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_VARIANT_FIELD_NUMBER: _ClassVar[int]
    PROXY_DISPATCH_MAX_RETRIES_FIELD_NUMBER: _ClassVar[int]
    PROXY_DISPATCH_BACKOFF_MS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    FUSE_MAX_READ_AHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    DOCKER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    DISK_MB_FIELD_NUMBER: _ClassVar[int]
    PIDS_MAX_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    FLIST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    CAP_ADD_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    image: str
    tag: str
    command: _containers.RepeatedScalarFieldContainer[str]
    cpu_cores: int
    memory_mb: int
    timeout_ms: int
    discovery_addr: str
    force_local_fetch: bool
    node_id: str
    platform_os: str
    platform_arch: str
    platform_variant: str
    proxy_dispatch_max_retries: int
    proxy_dispatch_backoff_ms: int
    env: _containers.RepeatedScalarFieldContainer[str]
    fuse_max_read_ahead_bytes: int
    docker_config_json: bytes
    working_dir: str
    user: str
    network: Network
    disk_mb: int
    pids_max: int
    diff: DiffMode
    flist: _node_pb2.FlistSource
    request_id: str
    entrypoint: _containers.RepeatedScalarFieldContainer[str]
    cap_add: _containers.RepeatedScalarFieldContainer[str]
    keep: Keep
    def __init__(self, image: _Optional[str] = ..., tag: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., cpu_cores: _Optional[int] = ..., memory_mb: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., discovery_addr: _Optional[str] = ..., force_local_fetch: _Optional[bool] = ..., node_id: _Optional[str] = ..., platform_os: _Optional[str] = ..., platform_arch: _Optional[str] = ..., platform_variant: _Optional[str] = ..., proxy_dispatch_max_retries: _Optional[int] = ..., proxy_dispatch_backoff_ms: _Optional[int] = ..., env: _Optional[_Iterable[str]] = ..., fuse_max_read_ahead_bytes: _Optional[int] = ..., docker_config_json: _Optional[bytes] = ..., working_dir: _Optional[str] = ..., user: _Optional[str] = ..., network: _Optional[_Union[Network, str]] = ..., disk_mb: _Optional[int] = ..., pids_max: _Optional[int] = ..., diff: _Optional[_Union[DiffMode, str]] = ..., flist: _Optional[_Union[_node_pb2.FlistSource, _Mapping]] = ..., request_id: _Optional[str] = ..., entrypoint: _Optional[_Iterable[str]] = ..., cap_add: _Optional[_Iterable[str]] = ..., keep: _Optional[_Union[Keep, _Mapping]] = ...) -> None: ...

class Keep(_message.Message):
    __slots__ = ("stores", "base_stores")
    STORES_FIELD_NUMBER: _ClassVar[int]
    BASE_STORES_FIELD_NUMBER: _ClassVar[int]
    stores: _containers.RepeatedScalarFieldContainer[str]
    base_stores: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stores: _Optional[_Iterable[str]] = ..., base_stores: _Optional[_Iterable[str]] = ...) -> None: ...

class FileEntryBegin(_message.Message):
    __slots__ = ("path", "type", "mode", "uid", "gid", "mtime_unix", "symlink_target")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_UNIX_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    path: str
    type: FileType
    mode: int
    uid: int
    gid: int
    mtime_unix: int
    symlink_target: str
    def __init__(self, path: _Optional[str] = ..., type: _Optional[_Union[FileType, str]] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_unix: _Optional[int] = ..., symlink_target: _Optional[str] = ...) -> None: ...

class FileChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class FileEntryEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("log", "result", "tar_header", "tar_chunk", "done", "accepted")
    LOG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TAR_HEADER_FIELD_NUMBER: _ClassVar[int]
    TAR_CHUNK_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    log: LogMessage
    result: Result
    tar_header: TarHeader
    tar_chunk: TarChunk
    done: Done
    accepted: Accepted
    def __init__(self, log: _Optional[_Union[LogMessage, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., tar_header: _Optional[_Union[TarHeader, _Mapping]] = ..., tar_chunk: _Optional[_Union[TarChunk, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("accepted", "node_id", "request_id", "flist_digest")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FLIST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    node_id: str
    request_id: str
    flist_digest: str
    def __init__(self, accepted: _Optional[bool] = ..., node_id: _Optional[str] = ..., request_id: _Optional[str] = ..., flist_digest: _Optional[str] = ...) -> None: ...

class LogMessage(_message.Message):
    __slots__ = ("source", "message", "raw")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    source: str
    message: str
    raw: bytes
    def __init__(self, source: _Optional[str] = ..., message: _Optional[str] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("success", "exit_code", "error", "reason", "signal", "usage", "kept")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    success: bool
    exit_code: int
    error: str
    reason: EndReason
    signal: int
    usage: Usage
    kept: _node_pb2.FlistInfo
    def __init__(self, success: _Optional[bool] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., reason: _Optional[_Union[EndReason, str]] = ..., signal: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., kept: _Optional[_Union[_node_pb2.FlistInfo, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("wall_us", "cpu_us", "memory_peak_bytes", "startup_us", "image_us", "log_bytes")
    WALL_US_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    STARTUP_US_FIELD_NUMBER: _ClassVar[int]
    IMAGE_US_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    wall_us: int
    cpu_us: int
    memory_peak_bytes: int
    startup_us: int
    image_us: int
    log_bytes: int
    def __init__(self, wall_us: _Optional[int] = ..., cpu_us: _Optional[int] = ..., memory_peak_bytes: _Optional[int] = ..., startup_us: _Optional[int] = ..., image_us: _Optional[int] = ..., log_bytes: _Optional[int] = ...) -> None: ...

class TarHeader(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TarChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("diff_bytes", "left_out", "left_out_names")
    DIFF_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_NAMES_FIELD_NUMBER: _ClassVar[int]
    diff_bytes: int
    left_out: int
    left_out_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, diff_bytes: _Optional[int] = ..., left_out: _Optional[int] = ..., left_out_names: _Optional[_Iterable[str]] = ...) -> None: ...

class GetRuntimeStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRuntimeStatusResponse(_message.Message):
    __slots__ = ("running_containers", "limit_cpu_cores", "limit_memory_mb", "used_cpu_cores", "used_memory_mb", "available_cpu_cores", "available_memory_mb", "node_id", "version", "draining", "warm_images", "completed", "failed")
    RUNNING_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    USED_CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    USED_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    WARM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    running_containers: int
    limit_cpu_cores: int
    limit_memory_mb: int
    used_cpu_cores: int
    used_memory_mb: int
    available_cpu_cores: int
    available_memory_mb: int
    node_id: str
    version: str
    draining: bool
    warm_images: _containers.RepeatedScalarFieldContainer[str]
    completed: int
    failed: int
    def __init__(self, running_containers: _Optional[int] = ..., limit_cpu_cores: _Optional[int] = ..., limit_memory_mb: _Optional[int] = ..., used_cpu_cores: _Optional[int] = ..., used_memory_mb: _Optional[int] = ..., available_cpu_cores: _Optional[int] = ..., available_memory_mb: _Optional[int] = ..., node_id: _Optional[str] = ..., version: _Optional[str] = ..., draining: _Optional[bool] = ..., warm_images: _Optional[_Iterable[str]] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...
