# Made by `dev.py generate` from proto/lamina/v1/node.proto; do not edit.
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PullPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PULL_POLICY_UNSPECIFIED: _ClassVar[PullPolicy]
    PULL_POLICY_IF_NOT_PRESENT: _ClassVar[PullPolicy]
    PULL_POLICY_ALWAYS: _ClassVar[PullPolicy]
    PULL_POLICY_NEVER: _ClassVar[PullPolicy]

class Warm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARM_NONE: _ClassVar[Warm]
    WARM_PROFILE: _ClassVar[Warm]
    WARM_ALL: _ClassVar[Warm]

class OverlayMedium(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERLAY_MEDIUM_UNSPECIFIED: _ClassVar[OverlayMedium]
    OVERLAY_MEDIUM_MEMORY: _ClassVar[OverlayMedium]
    OVERLAY_MEDIUM_DISK: _ClassVar[OverlayMedium]
PULL_POLICY_UNSPECIFIED: PullPolicy
PULL_POLICY_IF_NOT_PRESENT: PullPolicy
PULL_POLICY_ALWAYS: PullPolicy
PULL_POLICY_NEVER: PullPolicy
WARM_NONE: Warm
WARM_PROFILE: Warm
WARM_ALL: Warm
OVERLAY_MEDIUM_UNSPECIFIED: OverlayMedium
OVERLAY_MEDIUM_MEMORY: OverlayMedium
OVERLAY_MEDIUM_DISK: OverlayMedium

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "node", "mount_mode", "kernel", "platform", "cache_bytes", "cache_bytes_max", "volumes", "warnings")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MOUNT_MODE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    version: str
    node: str
    mount_mode: str
    kernel: str
    platform: str
    cache_bytes: int
    cache_bytes_max: int
    volumes: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., node: _Optional[str] = ..., mount_mode: _Optional[str] = ..., kernel: _Optional[str] = ..., platform: _Optional[str] = ..., cache_bytes: _Optional[int] = ..., cache_bytes_max: _Optional[int] = ..., volumes: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("image", "flist", "archive")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FLIST_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    image: ImageSource
    flist: FlistSource
    archive: ArchiveSource
    def __init__(self, image: _Optional[_Union[ImageSource, _Mapping]] = ..., flist: _Optional[_Union[FlistSource, _Mapping]] = ..., archive: _Optional[_Union[ArchiveSource, _Mapping]] = ...) -> None: ...

class ImageSource(_message.Message):
    __slots__ = ("reference", "platform", "pull_policy", "docker_config_json")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    PULL_POLICY_FIELD_NUMBER: _ClassVar[int]
    DOCKER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    reference: str
    platform: str
    pull_policy: PullPolicy
    docker_config_json: bytes
    def __init__(self, reference: _Optional[str] = ..., platform: _Optional[str] = ..., pull_policy: _Optional[_Union[PullPolicy, str]] = ..., docker_config_json: _Optional[bytes] = ...) -> None: ...

class FlistSource(_message.Message):
    __slots__ = ("digest", "stores", "image", "archive")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    stores: _containers.RepeatedScalarFieldContainer[str]
    image: ImageSource
    archive: ArchiveSource
    def __init__(self, digest: _Optional[str] = ..., stores: _Optional[_Iterable[str]] = ..., image: _Optional[_Union[ImageSource, _Mapping]] = ..., archive: _Optional[_Union[ArchiveSource, _Mapping]] = ...) -> None: ...

class ArchiveSource(_message.Message):
    __slots__ = ("url", "sha256")
    URL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    url: str
    sha256: str
    def __init__(self, url: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class EnsureRequest(_message.Message):
    __slots__ = ("source", "warm", "stores", "keep_layers_s")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    KEEP_LAYERS_S_FIELD_NUMBER: _ClassVar[int]
    source: Source
    warm: Warm
    stores: _containers.RepeatedScalarFieldContainer[str]
    keep_layers_s: int
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ..., warm: _Optional[_Union[Warm, str]] = ..., stores: _Optional[_Iterable[str]] = ..., keep_layers_s: _Optional[int] = ...) -> None: ...

class EnsureProgress(_message.Message):
    __slots__ = ("phase", "bytes_done", "bytes_total", "done")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    bytes_done: int
    bytes_total: int
    done: FlistInfo
    def __init__(self, phase: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., done: _Optional[_Union[FlistInfo, _Mapping]] = ...) -> None: ...

class FlistInfo(_message.Message):
    __slots__ = ("digest", "manifest", "reference", "entries", "bytes", "bytes_stored", "bytes_local", "layers", "stores", "volumes", "image_config")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_STORED_FIELD_NUMBER: _ClassVar[int]
    BYTES_LOCAL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    digest: str
    manifest: str
    reference: str
    entries: int
    bytes: int
    bytes_stored: int
    bytes_local: int
    layers: int
    stores: _containers.RepeatedScalarFieldContainer[str]
    volumes: int
    image_config: str
    def __init__(self, digest: _Optional[str] = ..., manifest: _Optional[str] = ..., reference: _Optional[str] = ..., entries: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_stored: _Optional[int] = ..., bytes_local: _Optional[int] = ..., layers: _Optional[int] = ..., stores: _Optional[_Iterable[str]] = ..., volumes: _Optional[int] = ..., image_config: _Optional[str] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("volume_id", "target", "source", "writable", "overlay_bytes_max", "sub_path", "prefetch", "pod", "stores", "overlay_medium")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SUB_PATH_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_MEDIUM_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    target: str
    source: Source
    writable: bool
    overlay_bytes_max: int
    sub_path: str
    prefetch: Warm
    pod: Pod
    stores: _containers.RepeatedScalarFieldContainer[str]
    overlay_medium: OverlayMedium
    def __init__(self, volume_id: _Optional[str] = ..., target: _Optional[str] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., writable: _Optional[bool] = ..., overlay_bytes_max: _Optional[int] = ..., sub_path: _Optional[str] = ..., prefetch: _Optional[_Union[Warm, str]] = ..., pod: _Optional[_Union[Pod, _Mapping]] = ..., stores: _Optional[_Iterable[str]] = ..., overlay_medium: _Optional[_Union[OverlayMedium, str]] = ...) -> None: ...

class Pod(_message.Message):
    __slots__ = ("namespace", "name", "uid")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("flist", "mode", "took_us", "ensure_us")
    FLIST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TOOK_US_FIELD_NUMBER: _ClassVar[int]
    ENSURE_US_FIELD_NUMBER: _ClassVar[int]
    flist: FlistInfo
    mode: str
    took_us: int
    ensure_us: int
    def __init__(self, flist: _Optional[_Union[FlistInfo, _Mapping]] = ..., mode: _Optional[str] = ..., took_us: _Optional[int] = ..., ensure_us: _Optional[int] = ...) -> None: ...

class UnpublishRequest(_message.Message):
    __slots__ = ("volume_id", "target")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    target: str
    def __init__(self, volume_id: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class UnpublishResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVolumesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVolumesResponse(_message.Message):
    __slots__ = ("volumes",)
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    def __init__(self, volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("volume_id", "target", "digest", "reference", "pod", "writable", "mode", "bytes_total", "bytes_local", "bytes_fetched", "bytes_transferred", "reads", "reads_local", "reads_failed", "last_error", "state", "published_unix_ms", "took_us", "ensure_us", "bytes_from_peers", "bytes_from_stores", "bytes_from_registry", "bytes_waited_peers", "bytes_waited_stores", "bytes_waited_registry", "bytes_read", "bytes_read_local", "bytes_resident", "bytes_prefetched", "bytes_prefetched_used", "profile", "first_read_unix_ms", "unwanted")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_LOCAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_TRANSFERRED_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    READS_LOCAL_FIELD_NUMBER: _ClassVar[int]
    READS_FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TOOK_US_FIELD_NUMBER: _ClassVar[int]
    ENSURE_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_STORES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_REGISTRY_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITED_PEERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITED_STORES_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITED_REGISTRY_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_LOCAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PREFETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PREFETCHED_USED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_READ_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    UNWANTED_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    target: str
    digest: str
    reference: str
    pod: Pod
    writable: bool
    mode: str
    bytes_total: int
    bytes_local: int
    bytes_fetched: int
    bytes_transferred: int
    reads: int
    reads_local: int
    reads_failed: int
    last_error: str
    state: str
    published_unix_ms: int
    took_us: int
    ensure_us: int
    bytes_from_peers: int
    bytes_from_stores: int
    bytes_from_registry: int
    bytes_waited_peers: int
    bytes_waited_stores: int
    bytes_waited_registry: int
    bytes_read: int
    bytes_read_local: int
    bytes_resident: int
    bytes_prefetched: int
    bytes_prefetched_used: int
    profile: str
    first_read_unix_ms: int
    unwanted: bool
    def __init__(self, volume_id: _Optional[str] = ..., target: _Optional[str] = ..., digest: _Optional[str] = ..., reference: _Optional[str] = ..., pod: _Optional[_Union[Pod, _Mapping]] = ..., writable: _Optional[bool] = ..., mode: _Optional[str] = ..., bytes_total: _Optional[int] = ..., bytes_local: _Optional[int] = ..., bytes_fetched: _Optional[int] = ..., bytes_transferred: _Optional[int] = ..., reads: _Optional[int] = ..., reads_local: _Optional[int] = ..., reads_failed: _Optional[int] = ..., last_error: _Optional[str] = ..., state: _Optional[str] = ..., published_unix_ms: _Optional[int] = ..., took_us: _Optional[int] = ..., ensure_us: _Optional[int] = ..., bytes_from_peers: _Optional[int] = ..., bytes_from_stores: _Optional[int] = ..., bytes_from_registry: _Optional[int] = ..., bytes_waited_peers: _Optional[int] = ..., bytes_waited_stores: _Optional[int] = ..., bytes_waited_registry: _Optional[int] = ..., bytes_read: _Optional[int] = ..., bytes_read_local: _Optional[int] = ..., bytes_resident: _Optional[int] = ..., bytes_prefetched: _Optional[int] = ..., bytes_prefetched_used: _Optional[int] = ..., profile: _Optional[str] = ..., first_read_unix_ms: _Optional[int] = ..., unwanted: _Optional[bool] = ...) -> None: ...

class GetVolumeStatsRequest(_message.Message):
    __slots__ = ("volume_id", "target")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    target: str
    def __init__(self, volume_id: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class GetVolumeStatsResponse(_message.Message):
    __slots__ = ("bytes", "inodes", "abnormal", "condition")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    INODES_FIELD_NUMBER: _ClassVar[int]
    ABNORMAL_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    bytes: Usage
    inodes: Usage
    abnormal: bool
    condition: str
    def __init__(self, bytes: _Optional[_Union[Usage, _Mapping]] = ..., inodes: _Optional[_Union[Usage, _Mapping]] = ..., abnormal: _Optional[bool] = ..., condition: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("total", "used", "available")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    total: int
    used: int
    available: int
    def __init__(self, total: _Optional[int] = ..., used: _Optional[int] = ..., available: _Optional[int] = ...) -> None: ...

class ListFlistsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFlistsResponse(_message.Message):
    __slots__ = ("flists",)
    FLISTS_FIELD_NUMBER: _ClassVar[int]
    flists: _containers.RepeatedCompositeFieldContainer[FlistInfo]
    def __init__(self, flists: _Optional[_Iterable[_Union[FlistInfo, _Mapping]]] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("digest", "delete_stored", "stores")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DELETE_STORED_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    delete_stored: bool
    stores: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digest: _Optional[str] = ..., delete_stored: _Optional[bool] = ..., stores: _Optional[_Iterable[str]] = ...) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ("bytes_freed",)
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    bytes_freed: int
    def __init__(self, bytes_freed: _Optional[int] = ...) -> None: ...

class ReadTreeRequest(_message.Message):
    __slots__ = ("source", "path")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    source: Source
    path: str
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class ReadTreeResponse(_message.Message):
    __slots__ = ("entry", "data")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    entry: TreeEntry
    data: bytes
    def __init__(self, entry: _Optional[_Union[TreeEntry, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TreeEntry(_message.Message):
    __slots__ = ("name", "mode", "uid", "gid", "size", "mtime_s", "link_target")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_S_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    link_target: bytes
    def __init__(self, name: _Optional[bytes] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., size: _Optional[int] = ..., mtime_s: _Optional[int] = ..., link_target: _Optional[bytes] = ...) -> None: ...

class CompareTreesRequest(_message.Message):
    __slots__ = ("old", "new")
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    old: Source
    new: Source
    def __init__(self, old: _Optional[_Union[Source, _Mapping]] = ..., new: _Optional[_Union[Source, _Mapping]] = ...) -> None: ...

class CompareTreesResponse(_message.Message):
    __slots__ = ("differences",)
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    differences: _containers.RepeatedCompositeFieldContainer[TreeDifference]
    def __init__(self, differences: _Optional[_Iterable[_Union[TreeDifference, _Mapping]]] = ...) -> None: ...

class TreeDifference(_message.Message):
    __slots__ = ("path", "change", "renamed_from", "aspects")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    RENAMED_FROM_FIELD_NUMBER: _ClassVar[int]
    ASPECTS_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    change: str
    renamed_from: bytes
    aspects: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[bytes] = ..., change: _Optional[str] = ..., renamed_from: _Optional[bytes] = ..., aspects: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckStoreRequest(_message.Message):
    __slots__ = ("store",)
    STORE_FIELD_NUMBER: _ClassVar[int]
    store: str
    def __init__(self, store: _Optional[str] = ...) -> None: ...

class CheckStoreResponse(_message.Message):
    __slots__ = ("writable", "objects", "bytes", "objects_known", "bytes_known", "nothing_seen")
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    BYTES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    NOTHING_SEEN_FIELD_NUMBER: _ClassVar[int]
    writable: bool
    objects: int
    bytes: int
    objects_known: bool
    bytes_known: bool
    nothing_seen: bool
    def __init__(self, writable: _Optional[bool] = ..., objects: _Optional[int] = ..., bytes: _Optional[int] = ..., objects_known: _Optional[bool] = ..., bytes_known: _Optional[bool] = ..., nothing_seen: _Optional[bool] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("force",)
    FORCE_FIELD_NUMBER: _ClassVar[int]
    force: bool
    def __init__(self, force: _Optional[bool] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: CommitStart
    data: bytes
    end: CommitEnd
    def __init__(self, start: _Optional[_Union[CommitStart, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[_Union[CommitEnd, _Mapping]] = ...) -> None: ...

class CommitStart(_message.Message):
    __slots__ = ("base", "stores", "base_stores")
    BASE_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    BASE_STORES_FIELD_NUMBER: _ClassVar[int]
    base: FlistSource
    stores: _containers.RepeatedScalarFieldContainer[str]
    base_stores: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, base: _Optional[_Union[FlistSource, _Mapping]] = ..., stores: _Optional[_Iterable[str]] = ..., base_stores: _Optional[_Iterable[str]] = ...) -> None: ...

class CommitEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("flist", "bytes_new")
    FLIST_FIELD_NUMBER: _ClassVar[int]
    BYTES_NEW_FIELD_NUMBER: _ClassVar[int]
    flist: FlistInfo
    bytes_new: int
    def __init__(self, flist: _Optional[_Union[FlistInfo, _Mapping]] = ..., bytes_new: _Optional[int] = ...) -> None: ...
