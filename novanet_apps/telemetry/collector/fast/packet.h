/* The first bytes of a sampled frame, through VLAN tags, MPLS labels and tunnels to the innermost packet: decode/headers.py says the same. */
#ifndef NOVANET_PACKET_H
#define NOVANET_PACKET_H

#include "bytes.h"

typedef struct {
    uint8_t src[16], dst[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint64_t src_mac, dst_mac;
    uint32_t vni;
    uint16_t sport, dport; /* of ICMP type and code, in dport */
    uint8_t version;       /* 4 or 6, 0 where there is no IP, or not both addresses */
    uint8_t protocol, tcp_flags, tos;
    bool has_vni;
} packet;

void novanet_ethernet(reader *frame, packet *found);
void novanet_internet(reader *bytes, packet *found);

#endif
