/* sFlow version 5: flow samples with the sampled packet's header, expanded ones too. decode/sflow.py reads all there is. */
#include "collector.h"
#include "packet.h"

enum { FLOW = 1, COUNTERS = 2, EXPANDED_FLOW = 3, EXPANDED_COUNTERS = 4, DISCARDED = 5 };

typedef struct {
    packet packet;
    uint32_t length, vni[2]; /* of ingress and egress */
    bool has_packet, has_vni[2];
} records;

static bool raw_header(reader *r, records *found) {
    uint32_t protocol = u32(r), length = u32(r);
    skip(r, 4);
    uint32_t size = u32(r);
    if (r->cut || found->has_packet) return false;
    reader header = part(r, size < left(r) ? size : left(r));
    if (protocol == 1) novanet_ethernet(&header, &found->packet);
    else if (protocol == 11 || protocol == 12) novanet_internet(&header, &found->packet);
    else return false;
    found->length = length;
    found->has_packet = true;
    return true;
}

static bool address(reader *r) {
    uint32_t kind = u32(r);
    return skip(r, kind == 1 ? 4 : kind == 2 ? 16 : 0);
}

/* extended_gateway: lists, which are read as far as they are there. */
static bool gateway(reader *r) {
    if (!address(r) || !skip(r, 12)) return false;
    for (uint32_t segments = u32(r), most = (uint32_t)(left(r) / 8), n = 0; n < segments && n < most; n++) {
        if (!skip(r, 4)) return false;
        uint32_t count = u32(r);
        skip(r, 4 * (count < left(r) / 4 ? (size_t)count : left(r) / 4));
    }
    uint32_t count = u32(r);
    skip(r, 4 * (count < left(r) / 4 ? (size_t)count : left(r) / 4));
    return skip(r, 4);
}

/* Whether a record that says nothing of the flow is whole. */
static bool whole(uint32_t format, reader *r) {
    switch (format) {
    case 1011: case 1027: case 1028: case 1036: case 1039: case 1040: return skip(r, 4);
    case 1020: return skip(r, 8);
    case 1001: return skip(r, 16);
    case 1002: return address(r) && skip(r, 8);
    case 1003: return gateway(r);
    case 2100: return skip(r, 20);
    case 2101: return skip(r, 44);
    case 1021: case 1022: return skip(r, 24);
    case 1023: case 1024: return skip(r, 32);
    case 1025: case 1026: return skip(r, 56);
    case 2: case 3: case 4: /* packets that the exporter has parsed */
    case 1004: case 1005: case 1006: case 1007: case 1008: case 1009: case 1010: case 1012: case 1037: case 1038: return false;
    }
    return true; /* nothing is known of it */
}

static bool a_record(uint32_t format, reader *r, records *found) {
    if (format == 1) return raw_header(r, found);
    if (format != 1029 && format != 1030) return whole(format, r);
    bool ingress = format == 1030;
    found->vni[!ingress] = u32(r);
    found->has_vni[!ingress] = true;
    return !r->cut;
}

typedef struct {
    uint32_t format, value;
} interface;

static interface an_interface(reader *r, bool expanded) {
    uint32_t word = u32(r);
    if (expanded) return (interface){word, u32(r)};
    return (interface){word >> 30, word & 0x3FFFFFFF};
}

static uint32_t vni_of(const records *found) {
    if (found->packet.has_vni) return found->packet.vni;
    if (found->has_vni[0]) return found->vni[0];
    return found->has_vni[1] ? found->vni[1] : NO_VNI;
}

static bool a_sample(collector *c, const exporter *from, reader *r, bool expanded, uint64_t now) {
    skip(r, 4);
    uint32_t word = u32(r), kind = expanded ? word : word >> 24, source = expanded ? u32(r) : word & 0xFFFFFF;
    uint32_t rate = u32(r);
    skip(r, 8);
    interface in = an_interface(r, expanded), out = an_interface(r, expanded);
    records found = {0};
    uint32_t count = u32(r);
    for (uint32_t n = 0; n < count; n++) {
        uint32_t format = u32(r), size = u32(r);
        reader record = part(r, size);
        if (r->cut || !a_record(format, &record, &found)) return false;
    }
    row *made;
    if (r->cut || !found.has_packet || !(made = pend(c))) return false;
    const packet *p = &found.packet;
    rate = rate ? rate : 1;
    made->exporter = from->number;
    memcpy(made->src, p->src, 16);
    memcpy(made->dst, p->dst, 16);
    made->sport = p->sport, made->dport = p->dport;
    made->protocol = p->protocol, made->version = p->version;
    made->direction = UNKNOWN;
    if (kind == 0 && in.format == 0 && source == in.value) made->direction = IN;
    else if (kind == 0 && out.format == 0 && source == out.value) made->direction = OUT;
    made->vni = vni_of(&found);
    made->in_if = in.format == 0 ? in.value : 0, made->out_if = out.format == 0 ? out.value : 0;
    made->src_mac = p->src_mac, made->dst_mac = p->dst_mac;
    made->bytes = (uint64_t)found.length * rate, made->packets = rate, made->rate = rate;
    made->tcp_flags = p->tcp_flags, made->tos = p->tos;
    made->first_ms = made->last_ms = now;
    return true;
}

bool novanet_sflow(collector *c, const exporter *from, reader r, uint64_t now, told *t) {
    skip(&r, 4);
    uint32_t kind = u32(&r);
    if ((kind != 1 && kind != 2) || !skip(&r, kind == 1 ? 4 : 16)) return false;
    t->domain = u32(&r), t->sequence = u32(&r), t->units = 1;
    skip(&r, 4);
    uint32_t count = u32(&r);
    for (uint32_t n = 0; n < count; n++) {
        uint32_t format = u32(&r), size = u32(&r);
        reader sample = part(&r, size);
        if (r.cut) return false;
        if (format == FLOW || format == EXPANDED_FLOW) {
            if (!a_sample(c, from, &sample, format == EXPANDED_FLOW, now)) return false;
        } else if (format == COUNTERS || format == EXPANDED_COUNTERS || format == DISCARDED) {
            return false;
        }
    }
    return !r.cut;
}
