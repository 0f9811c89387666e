"""What a switch's error messages mean.

Names and numbers: OpenFlow Switch Specification 1.5.1 section 7.5.4 (those of 1.3 and 1.4 are a part of them), the
ONF's extensions 230 and 260, and Open vSwitch's own. The words are about what NovaNet may have done to get them.
"""

from __future__ import annotations

from struct import unpack_from
from typing import NamedTuple

from .openflow import NICIRA, ONF

EXPERIMENTER = 0xFFFF

_TABLES = {
    (0, "OFPHFC"): """
        INCOMPATIBLE no version of OpenFlow in common
        EPERM not permitted""",
    (1, "OFPBRC"): """
        BAD_VERSION the message has another version than was agreed
        BAD_TYPE the switch does not know this type of message
        BAD_MULTIPART the switch does not know this type of multipart request
        BAD_EXPERIMENTER the switch does not know this experimenter
        BAD_EXP_TYPE the switch does not know this message of the experimenter
        EPERM not permitted
        BAD_LEN the message has a wrong length
        BUFFER_EMPTY the buffer was used already
        BUFFER_UNKNOWN there is no such buffer
        BAD_TABLE_ID there is no such table
        IS_SLAVE this controller is a slave and may not change anything
        BAD_PORT there is no such port
        BAD_PACKET the packet to send is malformed
        MULTIPART_BUFFER_OVERFLOW the multipart request is too long
        MULTIPART_REQUEST_TIMEOUT the multipart request was not completed in time
        MULTIPART_REPLY_TIMEOUT the multipart reply was not completed in time
        MULTIPART_BAD_SCHED the multipart request cannot be scheduled
        PIPELINE_FIELDS_ONLY the match must have pipeline fields only
        UNKNOWN bad request""",
    (2, "OFPBAC"): """
        BAD_TYPE the switch does not know this action
        BAD_LEN an action has a wrong length
        BAD_EXPERIMENTER the switch does not know this action's experimenter
        BAD_EXP_TYPE the switch does not know this action of the experimenter
        BAD_OUT_PORT there is no such port to send to
        BAD_ARGUMENT an action has a bad argument
        EPERM not permitted
        TOO_MANY more actions than the switch can have
        BAD_QUEUE there is no such queue
        BAD_OUT_GROUP there is no such group
        MATCH_INCONSISTENT an action does not suit what the flow matches, such as setting an IP address without eth_type
        UNSUPPORTED_ORDER the switch cannot do actions in this order
        BAD_TAG an action uses an unknown tag
        BAD_SET_TYPE an action sets a field that cannot be set
        BAD_SET_LEN an action sets a field to a value of wrong length
        BAD_SET_ARGUMENT an action sets a field to a bad value
        BAD_SET_MASK an action sets a field under a bad mask
        BAD_METER there is no such meter""",
    (3, "OFPBIC"): """
        UNKNOWN_INST the switch does not know this instruction
        UNSUP_INST the switch or table does not have this instruction
        BAD_TABLE_ID there is no such table to go to
        UNSUP_METADATA the switch cannot write this metadata
        UNSUP_METADATA_MASK the switch cannot write metadata under this mask
        BAD_EXPERIMENTER the switch does not know this instruction's experimenter
        BAD_EXP_TYPE the switch does not know this instruction of the experimenter
        BAD_LEN an instruction has a wrong length
        EPERM not permitted
        DUP_INST an instruction stands twice""",
    (4, "OFPBMC"): """
        BAD_TYPE the switch does not know this type of match
        BAD_LEN the match has a wrong length
        BAD_TAG the match uses an unknown tag
        BAD_DL_ADDR_MASK the switch cannot match MAC addresses under this mask
        BAD_NW_ADDR_MASK the switch cannot match IP addresses under this mask
        BAD_WILDCARDS fields are matched that cannot be matched together
        BAD_FIELD the switch does not know a matched field (for tun_metadata: its Geneve option is not mapped)
        BAD_VALUE a field is matched against a bad value
        BAD_MASK a field is matched under a bad mask
        BAD_PREREQ a field is matched without one that it needs, such as ipv4_dst without eth_type
        DUP_FIELD a field is matched twice
        EPERM not permitted""",
    (5, "OFPFMFC"): """
        UNKNOWN the flow cannot be changed
        TABLE_FULL the table is full
        BAD_TABLE_ID there is no such table
        OVERLAP another flow of the same priority overlaps
        EPERM not permitted
        BAD_TIMEOUT the switch cannot have this timeout
        BAD_COMMAND the switch does not know this command
        BAD_FLAGS the switch does not know these flags
        CANT_SYNC the table is synchronised with another
        BAD_PRIORITY the switch cannot have this priority
        IS_SYNC the table is synchronised with another and cannot be changed""",
    (6, "OFPGMFC"): """
        GROUP_EXISTS the group exists already
        INVALID_GROUP the group has a bad number or type
        WEIGHT_UNSUPPORTED the switch cannot have these weights
        OUT_OF_GROUPS no room for another group
        OUT_OF_BUCKETS no room for another bucket
        CHAINING_UNSUPPORTED the switch cannot have groups that use groups
        WATCH_UNSUPPORTED the switch cannot watch what the group watches
        LOOP groups use each other in a loop
        UNKNOWN_GROUP there is no such group
        CHAINED_GROUP another group uses the group
        BAD_TYPE the switch does not know this type of group
        BAD_COMMAND the switch does not know this command
        BAD_BUCKET a bucket is malformed
        BAD_WATCH a bucket watches a bad port or group
        EPERM not permitted
        UNKNOWN_BUCKET there is no such bucket
        BUCKET_EXISTS the bucket exists already""",
    (7, "OFPPMFC"): """
        BAD_PORT there is no such port
        BAD_HW_ADDR the port has another MAC address
        BAD_CONFIG the port cannot be set so
        BAD_ADVERTISE the port cannot advertise this
        EPERM not permitted""",
    (8, "OFPTMFC"): """
        BAD_TABLE there is no such table
        BAD_CONFIG the table cannot be set so
        EPERM not permitted""",
    (9, "OFPQOFC"): """
        BAD_PORT there is no such port
        BAD_QUEUE there is no such queue
        EPERM not permitted""",
    (10, "OFPSCFC"): """
        BAD_FLAGS the switch does not know these flags
        BAD_LEN miss_send_len is bad
        EPERM not permitted""",
    (11, "OFPRRFC"): """
        STALE another controller has a higher generation: it has taken over
        UNSUP the switch does not know this role request
        BAD_ROLE there is no such role
        ID_UNSUP the switch does not know controller ids
        ID_IN_USE another controller has this id""",
    (12, "OFPMMFC"): """
        UNKNOWN the meter cannot be changed
        METER_EXISTS the meter exists already
        INVALID_METER the meter has a bad number
        UNKNOWN_METER there is no such meter
        BAD_COMMAND the switch does not know this command
        BAD_FLAGS the datapath cannot have these flags
        BAD_RATE the datapath cannot have this rate
        BAD_BURST the datapath cannot have this burst
        BAD_BAND the datapath cannot have this type of band
        BAD_BAND_VALUE a band has a bad value
        OUT_OF_METERS no room for another meter, or the datapath has none
        OUT_OF_BANDS more bands than the datapath can have""",
    (13, "OFPTFFC"): """
        BAD_TABLE there is no such table
        BAD_METADATA the table cannot have this metadata mask
        BAD_TYPE the switch does not know this property
        BAD_LEN a property has a wrong length
        BAD_ARGUMENT a property is bad
        EPERM not permitted""",
    (14, "OFPBPC"): """
        BAD_TYPE the switch does not know this property
        BAD_LEN a property has a wrong length
        BAD_VALUE a property has a bad value
        TOO_MANY more properties than the switch can have
        DUP_TYPE a property stands twice
        BAD_EXPERIMENTER the switch does not know this property's experimenter
        BAD_EXP_TYPE the switch does not know this property of the experimenter
        BAD_EXP_VALUE an experimenter's property has a bad value
        EPERM not permitted""",
    (15, "OFPACFC"): """
        INVALID a mask of asynchronous messages is bad
        UNSUPPORTED the switch cannot choose asynchronous messages so
        EPERM not permitted""",
    (16, "OFPMOFC"): """
        UNKNOWN the flow monitor cannot be changed
        MONITOR_EXISTS the flow monitor exists already
        INVALID_MONITOR the flow monitor is bad
        UNKNOWN_MONITOR there is no such flow monitor
        BAD_COMMAND the switch does not know this command
        BAD_FLAGS the switch does not know these flags
        BAD_TABLE_ID there is no such table
        BAD_OUT the flow monitor has a bad output""",
    (17, "OFPBFC"): """
        UNKNOWN bad bundle
        EPERM not permitted
        BAD_ID there is no such bundle; it may have expired
        BUNDLE_EXIST the bundle exists already
        BUNDLE_CLOSED the bundle is closed
        OUT_OF_BUNDLES no room for another bundle
        BAD_TYPE the switch does not know this bundle command
        BAD_FLAGS the bundle was opened with other flags, or the switch does not know them
        MSG_BAD_LEN a message in the bundle has a wrong length
        MSG_BAD_XID a message in the bundle has another transaction id
        MSG_UNSUP a message of this type cannot be in a bundle
        MSG_CONFLICT a message contradicts another of the bundle
        MSG_TOO_MANY more messages than a bundle can have
        MSG_FAILED a message of the bundle failed: nothing of the bundle was done
        TIMEOUT the bundle took too long
        BUNDLE_IN_PROGRESS the bundle is being committed
        SCHED_NOT_SUPPORTED the switch cannot schedule bundles
        SCHED_FUTURE the bundle is scheduled too late
        SCHED_PAST the bundle is scheduled too early""",
}

_OVS = {
    2: ("NXBRC_NXM_INVALID", "a match is malformed"),
    3: ("NXBRC_NXM_BAD_TYPE", "a match of Nicira's has a bad field"),
    4: ("NXBRC_MUST_BE_ZERO", "padding of a message is not zero"),
    5: ("NXBRC_BAD_REASON", "unknown reason"),
    10: ("NXBRC_UNENCODABLE_ERROR", "an error that this version of OpenFlow has no number for"),
    11: ("NXBAC_MUST_BE_ZERO", "padding of an action is not zero"),
    12: ("NXFMFC_HARDWARE", "the datapath failed to change the flow"),
    13: ("NXFMFC_BAD_TABLE_ID", "there is no such table"),
    15: ("NXBAC_BAD_CONJUNCTION", "a conjunction stands beside other actions"),
    16: ("NXTTMFC_BAD_COMMAND", "the switch does not know this command for Geneve options"),
    17: ("NXTTMFC_BAD_OPT_LEN", "a Geneve option is to be 4 to 124 bytes long, in steps of 4"),
    18: ("NXTTMFC_BAD_FIELD_IDX", "there is no such tun_metadata field"),
    19: ("NXTTMFC_TABLE_FULL", "no room for another Geneve option"),
    20: ("NXTTMFC_ALREADY_MAPPED", "the Geneve option or the tun_metadata field is mapped already"),
    21: ("NXTTMFC_DUP_ENTRY", "a Geneve option stands twice"),
    22: ("OFPBFC_BAD_VERSION", "a message in the bundle has another version"),
    23: ("NXQOFC_QUEUE_ERROR", "the queue cannot be set so"),
    34: ("NXR_NOT_SUPPORTED", "packet-in continuation is not possible"),
    35: ("NXR_STALE", "the packet's continuation is gone"),
    37: ("NXFMFC_INVALID_TLV_FIELD", "a flow uses a tun_metadata field whose Geneve option is not mapped"),
    38: ("NXTTMFC_INVALID_TLV_DEL", "a flow still uses the Geneve option that is to be deleted"),
    42: ("NXBAC_CT_DATAPATH_SUPPORT", "the datapath cannot do this connection tracking action"),
    43: ("NXBMC_CT_DATAPATH_SUPPORT", "the datapath cannot match on this of connection tracking"),
}
_ONF = {2600: ("OFPBIC_DUP_INST", "an instruction stands twice")}

NAMES: dict[tuple[int, int, int], tuple[str, str]] = {}
"""(experimenter or 0, type, code) -> (name, meaning)."""
for (_type, _prefix), _lines in _TABLES.items():
    for _code, _line in enumerate(_lines.strip().splitlines()):
        _word, _, _meaning = _line.strip().partition(" ")
        NAMES[0, _type, _code] = f"{_prefix}_{_word}", _meaning
        if _prefix == "OFPBFC":  # in OpenFlow 1.3 these are the ONF's, numbered from 2300
            NAMES[ONF, EXPERIMENTER, 2300 + _code] = NAMES[0, _type, _code]
NAMES |= {(NICIRA, EXPERIMENTER, _code): _named for _code, _named in _OVS.items()}
NAMES |= {(ONF, EXPERIMENTER, _code): _named for _code, _named in _ONF.items()}


class Error(NamedTuple):
    """An error message: ``name`` as the specification has it, ``meaning`` in words, ``data`` of the request refused.

    ``data`` begins with the header of that request, whose transaction id is also that of the error message.
    """

    type: int
    code: int
    experimenter: int
    name: str
    meaning: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.meaning}"


def read_error(body: bytes) -> Error:
    """The error in the body of an OFPT_ERROR message. Raises struct.error when it is cut off."""
    type, code = unpack_from(">HH", body)
    experimenter, data = 0, body[4:]
    if type == EXPERIMENTER:
        (experimenter,), data = unpack_from(">I", body, 4), body[8:]
    kind = f"experimenter {experimenter:#x}" if experimenter else f"type {type}"
    name, meaning = NAMES.get((experimenter, type, code), (f"error {code} of {kind}", "unknown to NovaNet"))
    return Error(type, code, experimenter, name, meaning, data)
