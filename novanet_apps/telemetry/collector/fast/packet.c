/* IEEE 802.1Q and 802.1ad, RFC 3032 (MPLS), 2784 and 2890 (GRE), 2003 and 2473 (IP in IP), 7348 (VXLAN), 8926 (Geneve). */
#include "packet.h"

enum { DEEPEST = 4, TAGS = 8 };
enum { IPV4 = 0x0800, IPV6 = 0x86DD, BRIDGED = 0x6558 };
enum { ICMP = 1, IPIP = 4, TCP = 6, UDP = 17, IP6IN = 41, GRE = 47, ICMP6 = 58, SCTP = 132 };

/* What has been found on the way in. */
typedef struct {
    packet *innermost;
    uint32_t vni; /* of the last tunnel that had one */
    bool has_vni;
    bool settled; /* this level is in innermost, or one within it */
    int depth;
} way;

static void frame_within(reader *r, way *w);
static void packet_within(reader *r, way *w);

/* This level is the innermost so far. */
static void settle(const packet *level, way *w) {
    *w->innermost = *level;
    w->settled = true;
    if (w->has_vni) {
        w->innermost->vni = w->vni;
        w->innermost->has_vni = true;
    }
}

/* What this level carries, if anything. */
static void by_kind(reader *r, uint16_t kind, const packet *p, way *w) {
    settle(p, w);
    if (w->depth >= DEEPEST) return;
    way inner = *w;
    inner.depth++;
    if (p->has_vni) {
        inner.vni = p->vni;
        inner.has_vni = true;
    }
    if (kind == BRIDGED) frame_within(r, &inner);
    else if (kind == IPV4 || kind == IPV6) packet_within(r, &inner);
}

static void gre(reader *r, packet *p, way *w) {
    uint16_t flags = u16(r), kind = u16(r);
    if (r->cut || flags & 7) return; /* another version: PPTP's */
    if (flags & 0x8000 && !skip(r, 4)) return;
    if (flags & 0x2000) {
        uint32_t key = u32(r);
        if (r->cut) return;
        if (kind == BRIDGED) p->vni = key >> 8, p->has_vni = true; /* NVGRE, RFC 7637 */
    }
    if (flags & 0x1000 && !skip(r, 4)) return;
    by_kind(r, kind, p, w);
}

static void tunnel_by_port(reader *r, packet *p, way *w) {
    if (p->dport == 4789 || p->dport == 8472) {
        uint32_t flags = u32(r), word = u32(r);
        if (r->cut) return;
        p->vni = word >> 8, p->has_vni = true;
        if (flags >> 27 & 1) by_kind(r, BRIDGED, p, w);
    } else if (p->dport == 6081) {
        uint16_t first = u16(r), kind = u16(r);
        uint32_t word = u32(r);
        if (r->cut) return;
        p->vni = word >> 8, p->has_vni = true;
        if (skip(r, 4 * (size_t)(first >> 8 & 0x3F)) && first >> 14 == 0) by_kind(r, kind, p, w);
    }
}

static void icmp(reader *r, packet *p) {
    uint16_t both = u16(r);
    if (!r->cut) p->dport = both;
}

static void transport(reader *r, uint8_t protocol, packet *p, way *w) {
    switch (protocol) {
    case TCP: case UDP: case SCTP: {
        uint16_t sport = u16(r), dport = u16(r);
        if (r->cut) return;
        p->sport = sport, p->dport = dport;
        if (protocol == TCP && skip(r, 9)) p->tcp_flags = u8(r);
        if (protocol == UDP && skip(r, 4)) tunnel_by_port(r, p, w);
        return;
    }
    case ICMP: case ICMP6: icmp(r, p); return;
    case GRE: gre(r, p, w); return;
    case IPIP: case IP6IN: by_kind(r, IPV4, p, w); return;
    }
}

static void ipv4(reader *r, packet *p, way *w) {
    const uint8_t *start = r->at;
    uint8_t first = u8(r);
    if (r->cut || first >> 4 != 4 || (first & 15) < 5) return;
    uint8_t tos = u8(r);
    if (r->cut) return;
    p->tos = tos;
    skip(r, 4);
    uint16_t fragment = u16(r);
    skip(r, 1);
    uint8_t protocol = u8(r);
    if (r->cut) return;
    p->protocol = protocol;
    skip(r, 2);
    const uint8_t *addresses = take(r, 8);
    if (!addresses) return;
    p->version = 4;
    p->src[10] = p->src[11] = p->dst[10] = p->dst[11] = 0xFF;
    memcpy(p->src + 12, addresses, 4);
    memcpy(p->dst + 12, addresses + 4, 4);
    if (skip(r, 4 * (size_t)(first & 15) - (size_t)(r->at - start)) && !(fragment & 0x1FFF)) transport(r, protocol, p, w);
}

static bool is_extension(uint8_t protocol) {
    switch (protocol) {
    case 0: case 43: case 60: case 135: case 139: case 140: return true;
    }
    return false;
}

static void ipv6(reader *r, packet *p, way *w) {
    uint32_t word = u32(r);
    if (r->cut || word >> 28 != 6) return;
    p->tos = word >> 20 & 0xFF;
    skip(r, 2);
    uint8_t protocol = u8(r);
    skip(r, 1);
    const uint8_t *addresses = take(r, 32);
    if (!addresses) return;
    p->version = 6;
    memcpy(p->src, addresses, 16);
    memcpy(p->dst, addresses + 16, 16);
    p->protocol = protocol;
    uint16_t offset = 0;
    for (int n = 0; n < TAGS; n++) {
        if (protocol == 44) {
            protocol = u8(r);
            skip(r, 1);
            offset = u16(r) >> 3;
            skip(r, 4);
        } else if (is_extension(protocol) || protocol == 51) {
            size_t unit = protocol == 51 ? 4 : 8;
            protocol = u8(r);
            size_t length = u8(r);
            skip(r, unit * length + 6);
        } else {
            break;
        }
        if (r->cut) return;
        p->protocol = protocol;
    }
    if (!offset) transport(r, protocol, p, w);
}

static void mpls(reader *r, packet *p, way *w) {
    for (int n = 0; n < TAGS; n++) {
        uint32_t word = u32(r);
        if (r->cut) return;
        if (word & 0x100) {
            if (!left(r)) return;
            if (*r->at >> 4 == 4) ipv4(r, p, w);
            else if (*r->at >> 4 == 6) ipv6(r, p, w);
            return;
        }
    }
}

static void by_type(reader *r, uint16_t kind, packet *p, way *w) {
    w->settled = false;
    for (int n = 0; n < TAGS; n++) {
        if (kind != 0x8100 && kind != 0x88A8 && kind != 0x9100 && kind != 0x9200) break;
        skip(r, 2);
        kind = u16(r);
    }
    if (r->cut) kind = 0;
    if (kind == 0x8847 || kind == 0x8848) mpls(r, p, w);
    else if (kind == IPV4) ipv4(r, p, w);
    else if (kind == IPV6) ipv6(r, p, w);
    if (!w->settled) settle(p, w);
}

static void frame_within(reader *r, way *w) {
    packet p = {0};
    const uint8_t *macs = take(r, 12);
    if (!macs) return;
    p.dst_mac = big_endian(macs, 6);
    p.src_mac = big_endian(macs + 6, 6);
    by_type(r, u16(r), &p, w);
}

static void packet_within(reader *r, way *w) {
    packet p = {0};
    if (left(r)) by_type(r, *r->at >> 4 == 6 ? IPV6 : IPV4, &p, w);
}

void novanet_ethernet(reader *frame, packet *found) {
    *found = (packet){0};
    way w = {.innermost = found};
    frame_within(frame, &w);
}

void novanet_internet(reader *bytes, packet *found) {
    *found = (packet){0};
    way w = {.innermost = found};
    packet_within(bytes, &w);
}
