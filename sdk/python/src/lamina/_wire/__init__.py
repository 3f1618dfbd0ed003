"""Messages of the contracts, from `descriptors.binpb`, which `dev.py generate` makes of the `.proto` files.

They live in a pool of their own: whoever also imports another client of the same public packages would otherwise
find every name taken twice. And no generated code is needed, which would tie us to one release of protobuf.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__name__).joinpath("descriptors.binpb").read_bytes()
).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def define(module: dict[str, Any], name: str) -> None:
    """Puts the messages, enumerations and their values of one `.proto` file into a module."""
    file = _pool.FindFileByName(name)
    module["DESCRIPTOR"] = file
    for message in file.message_types_by_name.values():
        module[message.name] = message_factory.GetMessageClass(message)
    for enum in file.enum_types_by_name.values():
        module[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
