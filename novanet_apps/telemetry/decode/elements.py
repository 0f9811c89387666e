"""Information elements of IPFIX (IANA's registry, RFC 7012), whose first 127 are NetFlow v9's field types, too.

Numbers are read as such whatever their length (reduced size, RFC 7011 6.2), so only what is something else has a type.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from struct import unpack
from typing import Any, NamedTuple

REVERSE = 29305
"""Private enterprise number of the reverse direction's elements (RFC 5103)."""
_NAMES = """
1 octetDeltaCount; 2 packetDeltaCount; 3 deltaFlowCount; 4 protocolIdentifier; 5 ipClassOfService; 6 tcpControlBits; 7 sourceTransportPort
8 sourceIPv4Address ip4; 9 sourceIPv4PrefixLength; 10 ingressInterface; 11 destinationTransportPort; 12 destinationIPv4Address ip4
13 destinationIPv4PrefixLength; 14 egressInterface; 15 ipNextHopIPv4Address ip4; 16 bgpSourceAsNumber; 17 bgpDestinationAsNumber
18 bgpNextHopIPv4Address ip4; 19 postMCastPacketDeltaCount; 20 postMCastOctetDeltaCount; 21 flowEndSysUpTime; 22 flowStartSysUpTime
23 postOctetDeltaCount; 24 postPacketDeltaCount; 25 minimumIpTotalLength; 26 maximumIpTotalLength; 27 sourceIPv6Address ip6
28 destinationIPv6Address ip6; 29 sourceIPv6PrefixLength; 30 destinationIPv6PrefixLength; 31 flowLabelIPv6; 32 icmpTypeCodeIPv4; 33 igmpType
34 samplingInterval; 35 samplingAlgorithm; 36 flowActiveTimeout; 37 flowIdleTimeout; 38 engineType; 39 engineId; 40 exportedOctetTotalCount
41 exportedMessageTotalCount; 42 exportedFlowRecordTotalCount; 43 ipv4RouterSc ip4; 44 sourceIPv4Prefix ip4; 45 destinationIPv4Prefix ip4
46 mplsTopLabelType; 47 mplsTopLabelIPv4Address ip4; 48 samplerId; 49 samplerMode; 50 samplerRandomInterval; 51 classId; 52 minimumTTL
53 maximumTTL; 54 fragmentIdentification; 55 postIpClassOfService; 56 sourceMacAddress mac; 57 postDestinationMacAddress mac; 58 vlanId
59 postVlanId; 60 ipVersion; 61 flowDirection; 62 ipNextHopIPv6Address ip6; 63 bgpNextHopIPv6Address ip6; 64 ipv6ExtensionHeaders
70 mplsTopLabelStackSection hex; 71 mplsLabelStackSection2 hex; 72 mplsLabelStackSection3 hex; 73 mplsLabelStackSection4 hex
74 mplsLabelStackSection5 hex; 75 mplsLabelStackSection6 hex; 76 mplsLabelStackSection7 hex; 77 mplsLabelStackSection8 hex
78 mplsLabelStackSection9 hex; 79 mplsLabelStackSection10 hex; 80 destinationMacAddress mac; 81 postSourceMacAddress mac
82 interfaceName text; 83 interfaceDescription text; 84 samplerName text; 85 octetTotalCount; 86 packetTotalCount; 87 flagsAndSamplerId
88 fragmentOffset; 89 forwardingStatus; 90 mplsVpnRouteDistinguisher hex; 91 mplsTopLabelPrefixLength; 92 srcTrafficIndex; 93 dstTrafficIndex
94 applicationDescription text; 95 applicationId hex; 96 applicationName text; 98 postIpDiffServCodePoint; 99 multicastReplicationFactor
100 className text; 101 classificationEngineId; 102 layer2packetSectionOffset; 103 layer2packetSectionSize; 104 layer2packetSectionData hex
128 bgpNextAdjacentAsNumber; 129 bgpPrevAdjacentAsNumber; 130 exporterIPv4Address ip4; 131 exporterIPv6Address ip6; 132 droppedOctetDeltaCount
133 droppedPacketDeltaCount; 134 droppedOctetTotalCount; 135 droppedPacketTotalCount; 136 flowEndReason; 137 commonPropertiesId
138 observationPointId; 139 icmpTypeCodeIPv6; 140 mplsTopLabelIPv6Address ip6; 141 lineCardId; 142 portId; 143 meteringProcessId
144 exportingProcessId; 145 templateId; 146 wlanChannelId; 147 wlanSSID text; 148 flowId; 149 observationDomainId; 150 flowStartSeconds
151 flowEndSeconds; 152 flowStartMilliseconds; 153 flowEndMilliseconds; 154 flowStartMicroseconds ntp; 155 flowEndMicroseconds ntp
156 flowStartNanoseconds ntp; 157 flowEndNanoseconds ntp; 158 flowStartDeltaMicroseconds; 159 flowEndDeltaMicroseconds
160 systemInitTimeMilliseconds; 161 flowDurationMilliseconds; 162 flowDurationMicroseconds; 163 observedFlowTotalCount
164 ignoredPacketTotalCount; 165 ignoredOctetTotalCount; 166 notSentFlowTotalCount; 167 notSentPacketTotalCount; 168 notSentOctetTotalCount
169 destinationIPv6Prefix ip6; 170 sourceIPv6Prefix ip6; 171 postOctetTotalCount; 172 postPacketTotalCount; 173 flowKeyIndicator
174 postMCastPacketTotalCount; 175 postMCastOctetTotalCount; 176 icmpTypeIPv4; 177 icmpCodeIPv4; 178 icmpTypeIPv6; 179 icmpCodeIPv6
180 udpSourcePort; 181 udpDestinationPort; 182 tcpSourcePort; 183 tcpDestinationPort; 184 tcpSequenceNumber; 185 tcpAcknowledgementNumber
186 tcpWindowSize; 187 tcpUrgentPointer; 188 tcpHeaderLength; 189 ipHeaderLength; 190 totalLengthIPv4; 191 payloadLengthIPv6; 192 ipTTL
193 nextHeaderIPv6; 194 mplsPayloadLength; 195 ipDiffServCodePoint; 196 ipPrecedence; 197 fragmentFlags; 198 octetDeltaSumOfSquares
199 octetTotalSumOfSquares; 200 mplsTopLabelTTL; 201 mplsLabelStackLength; 202 mplsLabelStackDepth; 203 mplsTopLabelExp; 204 ipPayloadLength
205 udpMessageLength; 206 isMulticast; 207 ipv4IHL; 208 ipv4Options; 209 tcpOptions; 210 paddingOctets hex; 211 collectorIPv4Address ip4
212 collectorIPv6Address ip6; 213 exportInterface; 214 exportProtocolVersion; 215 exportTransportProtocol; 216 collectorTransportPort
217 exporterTransportPort; 218 tcpSynTotalCount; 219 tcpFinTotalCount; 220 tcpRstTotalCount; 221 tcpPshTotalCount; 222 tcpAckTotalCount
223 tcpUrgTotalCount; 224 ipTotalLength; 225 postNATSourceIPv4Address ip4; 226 postNATDestinationIPv4Address ip4
227 postNAPTSourceTransportPort; 228 postNAPTDestinationTransportPort; 229 natOriginatingAddressRealm; 230 natEvent; 231 initiatorOctets
232 responderOctets; 233 firewallEvent; 234 ingressVRFID; 235 egressVRFID; 236 VRFname text; 237 postMplsTopLabelExp; 238 tcpWindowScale
239 biflowDirection; 240 ethernetHeaderLength; 241 ethernetPayloadLength; 242 ethernetTotalLength; 243 dot1qVlanId; 244 dot1qPriority
245 dot1qCustomerVlanId; 246 dot1qCustomerPriority; 247 metroEvcId text; 248 metroEvcType; 249 pseudoWireId; 250 pseudoWireType
251 pseudoWireControlWord; 252 ingressPhysicalInterface; 253 egressPhysicalInterface; 254 postDot1qVlanId; 255 postDot1qCustomerVlanId
256 ethernetType; 257 postIpPrecedence; 258 collectionTimeMilliseconds; 259 exportSctpStreamId; 260 maxExportSeconds; 261 maxFlowEndSeconds
262 messageMD5Checksum hex; 263 messageScope; 264 minExportSeconds; 265 minFlowStartSeconds; 266 opaqueOctets hex; 267 sessionScope
268 maxFlowEndMicroseconds ntp; 269 maxFlowEndMilliseconds; 270 maxFlowEndNanoseconds ntp; 271 minFlowStartMicroseconds ntp
272 minFlowStartMilliseconds; 273 minFlowStartNanoseconds ntp; 276 dataRecordsReliability bool; 277 observationPointType; 278 newConnectionDeltaCount
279 connectionSumDurationSeconds; 280 connectionTransactionId; 281 postNATSourceIPv6Address ip6; 282 postNATDestinationIPv6Address ip6
283 natPoolId; 284 natPoolName text; 285 anonymizationFlags; 286 anonymizationTechnique; 287 informationElementIndex; 288 p2pTechnology text
289 tunnelTechnology text; 290 encryptedTechnology text; 298 initiatorPackets; 299 responderPackets; 300 observationDomainName text
301 selectionSequenceId; 302 selectorId; 303 informationElementId; 304 selectorAlgorithm; 305 samplingPacketInterval; 306 samplingPacketSpace
307 samplingTimeInterval; 308 samplingTimeSpace; 309 samplingSize; 310 samplingPopulation; 311 samplingProbability float; 312 dataLinkFrameSize
313 ipHeaderPacketSection hex; 314 ipPayloadPacketSection hex; 315 dataLinkFrameSection hex; 316 mplsLabelStackSection hex
317 mplsPayloadPacketSection hex; 318 selectorIdTotalPktsObserved; 319 selectorIdTotalPktsSelected; 320 absoluteError float
321 relativeError float; 322 observationTimeSeconds; 323 observationTimeMilliseconds; 324 observationTimeMicroseconds ntp
325 observationTimeNanoseconds ntp; 326 digestHashValue; 339 informationElementDataType; 340 informationElementDescription text
341 informationElementName text; 344 informationElementSemantics; 345 informationElementUnits; 346 privateEnterpriseNumber
347 virtualStationInterfaceId hex; 348 virtualStationInterfaceName text; 349 virtualStationUUID hex; 350 virtualStationName text
351 layer2SegmentId; 352 layer2OctetDeltaCount; 353 layer2OctetTotalCount; 354 ingressUnicastPacketTotalCount
355 ingressMulticastPacketTotalCount; 356 ingressBroadcastPacketTotalCount; 357 egressUnicastPacketTotalCount
358 egressBroadcastPacketTotalCount; 361 portRangeStart; 362 portRangeEnd; 363 portRangeStepSize; 364 portRangeNumPorts
365 staMacAddress mac; 366 staIPv4Address ip4; 367 wtpMacAddress mac; 368 ingressInterfaceType; 369 egressInterfaceType
370 rtpSequenceNumber; 371 userName text; 372 applicationCategoryName text; 389 conservativeFlow bool; 408 dataLinkFrameType; 409 sectionOffset
410 sectionExportedOctets; 411 dot1qServiceInstanceTag hex; 414 dot1qCustomerSourceMacAddress mac; 415 dot1qCustomerDestinationMacAddress mac
417 postLayer2OctetDeltaCount; 418 postMCastLayer2OctetDeltaCount; 420 postLayer2OctetTotalCount; 428 droppedLayer2OctetDeltaCount
429 droppedLayer2OctetTotalCount; 430 ignoredLayer2OctetTotalCount; 433 ignoredDataRecordTotalCount; 434 ignoredDataRecordOctetTotalCount
458 sourceTransportPortsLimit; 459 httpRequestMethod text; 460 httpRequestHost text; 461 httpRequestTarget text
466 natQuotaExceededEvent; 470 ingressMulticastOctetTotalCount
"""


class Element(NamedTuple):
    """What a field is called, and how it is read."""

    name: str
    read: Callable[[bytes], Any]


def number(data: bytes) -> int:
    """An unsigned number of any length."""
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").rstrip("\0")


def _ip4(data: bytes) -> Any:
    return str(IPv4Address(data)) if len(data) == 4 else data.hex()


def _ip6(data: bytes) -> Any:
    return str(IPv6Address(data)) if len(data) == 16 else data.hex()


def _mac(data: bytes) -> str:
    return data.hex(":")


def _float(data: bytes) -> Any:
    return unpack(">f" if len(data) == 4 else ">d", data)[0] if len(data) in (4, 8) else data.hex()


def _ntp(data: bytes) -> Any:
    """Nanoseconds since 1970, of an NTP timestamp: seconds since 1900, and parts of 2^32 of one (RFC 7011 6.1.9)."""
    if len(data) != 8:
        return data.hex()
    seconds, fraction = unpack(">II", data)
    return (seconds - 2_208_988_800) * 1_000_000_000 + (fraction * 1_000_000_000 >> 32)


_TYPES: dict[str, Callable[[bytes], Any]] = {
    "": number, "text": _text, "ip4": _ip4, "ip6": _ip6, "mac": _mac, "float": _float, "ntp": _ntp, "hex": bytes.hex,
    "bool": lambda data: number(data) == 1,
}  # fmt: skip


def _known() -> dict[int, Element]:
    found = {}
    for line in _NAMES.strip().splitlines():
        for entry in line.split(";"):
            id, name, *kind = entry.split()
            found[int(id)] = Element(name, _TYPES[kind[0] if kind else ""])
    return found


ELEMENTS = _known()
"""By number; of those that are not here, the value is shown as hexadecimal digits."""


def element(id: int, enterprise: int) -> Element:
    """The element of a number: ``reverseOctetDeltaCount`` for those of RFC 5103, ``6871/40`` for those of an enterprise."""
    if enterprise == 0:
        return ELEMENTS.get(id) or Element(str(id), bytes.hex)
    if enterprise == REVERSE and id in ELEMENTS:
        forward = ELEMENTS[id]
        return Element("reverse" + forward.name[:1].upper() + forward.name[1:], forward.read)
    return Element(f"{enterprise}/{id}", bytes.hex)
