"""NetFlow v5 and v9 (RFC 3954) and IPFIX (RFC 7011, options of PSAMP: RFC 5476 and 5477). Field names are IPFIX's."""

from __future__ import annotations

from .elements import number
from .reader import Reader, Truncated
from .results import Decoded, Record
from .state import FIELDS, VARIABLE, Domain, State, template

V5, V9, IPFIX = 5, 9, 10
_V5_RECORD = (
    ("sourceIPv4Address", "ip4"), ("destinationIPv4Address", "ip4"), ("ipNextHopIPv4Address", "ip4"), ("ingressInterface", 2),
    ("egressInterface", 2), ("packetDeltaCount", 4), ("octetDeltaCount", 4), ("flowStartSysUpTime", 4), ("flowEndSysUpTime", 4),
    ("sourceTransportPort", 2), ("destinationTransportPort", 2), ("", 1), ("tcpControlBits", 1), ("protocolIdentifier", 1),
    ("ipClassOfService", 1), ("bgpSourceAsNumber", 2), ("bgpDestinationAsNumber", 2), ("sourceIPv4PrefixLength", 1),
    ("destinationIPv4PrefixLength", 1), ("", 2),
)  # fmt: skip
_SCOPES_V9 = {1: "scopeSystem", 2: "scopeInterface", 3: "scopeLineCard", 4: "scopeCache", 5: "scopeTemplate"}


def decode_v5(datagram: bytes, exporter: str, state: State) -> Decoded:
    """Raises Truncated where the header is cut off."""
    reader, found = Reader(datagram, 2), Decoded()
    count, uptime, seconds, nanoseconds = reader.u16(), reader.u32(), reader.u32(), reader.u32()
    sequence, engine_type, engine, sampling = reader.u32(), reader.u8(), reader.u8(), reader.u16()
    found.domain, found.units = engine_type << 8 | engine, count
    domain = state.domain(exporter, V5, found.domain)
    domain.rates[0] = max(1, sampling & 0x3FFF)
    found.sequence = domain.first(sequence, count)
    head: Record = {
        "engineType": engine_type, "engineId": engine, "systemUpTime": uptime, "samplingAlgorithm": sampling >> 14,
        "samplingInterval": sampling & 0x3FFF, "sequenceNumber": sequence, "flowCount": count, "ipVersion": 4,
    }  # fmt: skip
    now = 1000 * seconds + nanoseconds // 1_000_000
    try:
        for _ in range(count):
            record = dict(head)
            for name, kind in _V5_RECORD:
                if not name:
                    reader.skip(int(kind))
                else:
                    record[name] = reader.ip4() if kind == "ip4" else reader.number(int(kind))
            _times(record, now, uptime)
            found.flows.append(record)
    except Truncated as cut:
        found.problems.append(f"record {len(found.flows) + 1} of {count}: {cut}")
    return found


def _times(record: Record, now: int, uptime: int) -> None:
    """Milliseconds since 1970 of what the exporter tells as milliseconds since its own start, a number of 32 bits."""
    for end in ("Start", "End"):
        then = record.get(f"flow{end}SysUpTime")
        if then is not None and f"flow{end}Milliseconds" not in record:
            ago = (uptime - then) & 0xFFFFFFFF
            record[f"flow{end}Milliseconds"] = now - (ago if ago < 1 << 31 else ago - (1 << 32))


# --- templates and sets ------------------------------------------------------------------------------------------


def decode_v9(datagram: bytes, exporter: str, state: State) -> Decoded:
    """Raises Truncated where the header is cut off."""
    reader, found = Reader(datagram, 4), Decoded()
    uptime, seconds = reader.u32(), reader.u32()
    found.sequence, found.domain = reader.u32(), reader.u32()
    domain = state.domain(exporter, V9, found.domain)
    while reader.left >= 4:
        id, length = reader.u16(), reader.u16()
        try:
            part = reader.part(length - 4)
            if id == 0:
                _templates_v9(part, domain)
            elif id == 1:
                _options_v9(part, domain)
            else:
                _data(part, id, domain, found)
        except Truncated as cut:
            found.problems.append(f"set {id}: {cut}")
            break
    for record in found.flows:
        _times(record, 1000 * seconds, uptime)
    _learn(domain, found)
    return found


def decode_ipfix(datagram: bytes, exporter: str, state: State) -> Decoded:
    """Raises Truncated where the header is cut off."""
    head = Reader(datagram, 2)
    length, seconds = head.u16(), head.u32()
    found = Decoded(sequence=head.u32(), domain=head.u32())
    reader = Reader(datagram, head.at, max(head.at, min(length, len(datagram))))
    domain = state.domain(exporter, IPFIX, found.domain)
    while reader.left >= 4:
        id, size = reader.u16(), reader.u16()
        try:
            part = reader.part(size - 4)
            if id in (2, 3):
                _templates_ipfix(part, domain, id)
            else:
                _data(part, id, domain, found)
        except Truncated as cut:
            found.problems.append(f"set {id}: {cut}")
            break
    if length > len(datagram):
        found.problems.append(f"{length} bytes announced, {len(datagram)} there")
    for record in found.flows:
        if "flowStartDeltaMicroseconds" in record:
            record.setdefault("flowStartMilliseconds", 1000 * seconds - record["flowStartDeltaMicroseconds"] // 1000)
        if "flowEndDeltaMicroseconds" in record:
            record.setdefault("flowEndMilliseconds", 1000 * seconds - record["flowEndDeltaMicroseconds"] // 1000)
    found.units = len(found.flows) + len(found.options)
    _learn(domain, found)
    return found


def _templates_v9(reader: Reader, domain: Domain) -> None:
    while reader.left >= 4:
        id, count = reader.u16(), reader.u16()
        if id < 256:
            return  # padding
        fields = [(reader.u16(), 0, reader.u16()) for _ in range(_sane(count))]
        _keep(domain, id, fields, 0)


def _options_v9(reader: Reader, domain: Domain) -> None:
    while reader.left >= 6:
        id, scope, option = reader.u16(), reader.u16(), reader.u16()
        if id < 256:
            return
        scopes = [(reader.u16(), -1, reader.u16()) for _ in range(_sane(scope // 4))]
        fields = [(reader.u16(), 0, reader.u16()) for _ in range(_sane(option // 4))]
        _keep(domain, id, scopes + fields, max(1, len(scopes)))


def _templates_ipfix(reader: Reader, domain: Domain, set_id: int) -> None:
    while reader.left >= 4:
        id, count = reader.u16(), reader.u16()
        if count == 0 and id == set_id:  # all of them are withdrawn
            for each in [each for each, kept in domain.templates.items() if bool(kept.scopes) == (set_id == 3)]:
                del domain.templates[each]
            continue
        if id < 256:
            return
        if count == 0:
            domain.templates.pop(id, None)
            continue
        scopes = reader.u16() if set_id == 3 else 0
        fields = []
        for _ in range(_sane(count)):
            element, length = reader.u16(), reader.u16()
            fields.append((element & 0x7FFF, reader.u32() if element & 0x8000 else 0, length))
        _keep(domain, id, fields, scopes)


def _sane(count: int) -> int:
    if count > FIELDS:
        raise Truncated(f"a template of {count} fields: {FIELDS} is the most")
    return count


def _keep(domain: Domain, id: int, fields: list[tuple[int, int, int]], scopes: int) -> None:
    made = template(tuple(fields), scopes)
    if made.least:  # records without a byte would have no end
        domain.templates[id] = made


def _data(reader: Reader, id: int, domain: Domain, found: Decoded) -> None:
    known = domain.templates.get(id)
    if known is None:
        found.skipped += 1
        return
    into = found.options if known.scopes else found.flows
    while reader.left >= known.least:
        record: Record = {}
        for at, field in enumerate(known.fields):
            length = field.length
            if length == VARIABLE:
                length = reader.u8()
                if length == 255:
                    length = reader.u16()
            data = reader.take(length)
            if field.enterprise < 0:
                record[_SCOPES_V9.get(field.id, f"scope{field.id}")] = number(data)
                continue
            name = field.element.name
            if name in record:  # in the order of the packet; the first one is it
                name = f"{name}.{at}"
            record[name] = field.element.read(data)
        into.append(record)


# --- sampling ----------------------------------------------------------------------------------------------------


def _learn(domain: Domain, found: Decoded) -> None:
    """The sampling rates that options tell, by sampler where they name one."""
    for record in found.options:
        rate = _rate(record)
        if rate is not None:
            sampler = record.get("samplerId", record.get("selectorId", 0))
            domain.rates[sampler if isinstance(sampler, int) else 0] = rate


def _rate(record: Record) -> int | None:
    """One of how many packets is looked at."""
    for name in ("samplingInterval", "samplerRandomInterval"):
        if isinstance(record.get(name), int):
            return max(1, record[name])
    every, left_out = record.get("samplingPacketInterval"), record.get("samplingPacketSpace")
    if isinstance(every, int) and isinstance(left_out, int) and every:
        return max(1, round((every + left_out) / every))
    size, population = record.get("samplingSize"), record.get("samplingPopulation")
    if isinstance(size, int) and isinstance(population, int) and size:
        return max(1, round(population / size))
    probability = record.get("samplingProbability")
    if isinstance(probability, float) and 0 < probability <= 1:
        return max(1, min(0xFFFFFFFF, round(1 / probability)))
    return None


def rate_of(record: Record, domain: Domain) -> int:
    """By what a flow's counts are to be multiplied."""
    own = _rate(record)
    if own is not None:
        return own
    sampler = record.get("samplerId", record.get("selectorId"))
    return domain.rate(sampler if isinstance(sampler, int) else None)
