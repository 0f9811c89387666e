/* NetFlow v5, and the data records of v9 (RFC 3954) and IPFIX (RFC 7011) by templates that fast.py has made. decode/netflow.py reads all there is. */
#include "collector.h"

static const uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

static void ip4(uint8_t *into, const uint8_t *address) {
    memcpy(into, MAPPED, sizeof MAPPED);
    memcpy(into + 12, address, 4);
}

/* --- version 5 ------------------------------------------------------------------------------------------------------ */

enum { V5_RECORD = 48 };

/* Unix milliseconds of what was told as milliseconds since the exporter's start, a number of 32 bits. */
static uint64_t since_start(uint64_t now, uint32_t uptime, uint64_t then) {
    int64_t ago = (int32_t)(uptime - (uint32_t)then);
    int64_t found = (int64_t)now - ago;
    return found < 0 ? 0 : (uint64_t)found;
}

/* The number of the first record: the header has it, or the last one's (decode/state.py, Domain.first). */
static uint32_t first_of(numbers *n, uint32_t sequence, uint32_t count) {
    if (n->has_before) {
        bool begins = sequence == n->before + n->units, ends = sequence == n->before + count;
        if (begins != ends) n->numbers_last = ends;
    }
    n->before = sequence, n->units = count, n->has_before = 1;
    return n->numbers_last && count ? sequence - (count - 1) : sequence;
}

bool novanet_netflow_v5(collector *c, const exporter *from, reader r, uint64_t now, told *t) {
    (void)now;
    skip(&r, 2);
    uint32_t count = u16(&r), uptime = u32(&r), seconds = u32(&r), nanoseconds = u32(&r), sequence = u32(&r);
    t->domain = u16(&r);
    uint32_t rate = u16(&r) & 0x3FFF;
    rate = rate ? rate : 1;
    if (r.cut || left(&r) < (size_t)count * V5_RECORD) return false;
    uint64_t exported = (uint64_t)seconds * 1000 + nanoseconds / 1000000;
    for (uint32_t n = 0; n < count; n++) {
        const uint8_t *at = take(&r, V5_RECORD);
        row *made = pend(c);
        if (!made) return false;
        made->exporter = from->number;
        ip4(made->src, at);
        ip4(made->dst, at + 4);
        made->in_if = (uint32_t)big_endian(at + 12, 2), made->out_if = (uint32_t)big_endian(at + 14, 2);
        made->packets = big_endian(at + 16, 4) * rate, made->bytes = big_endian(at + 20, 4) * rate;
        made->first_ms = since_start(exported, uptime, big_endian(at + 24, 4));
        made->last_ms = since_start(exported, uptime, big_endian(at + 28, 4));
        made->sport = (uint16_t)big_endian(at + 32, 2), made->dport = (uint16_t)big_endian(at + 34, 2);
        made->tcp_flags = at[37], made->protocol = at[38], made->tos = at[39];
        made->version = 4, made->direction = UNKNOWN, made->vni = NO_VNI, made->rate = rate;
    }
    stream *found = novanet_stream(c, from->number, V5, t->domain);
    if (!found) return false;
    t->stream = found, t->sequence = first_of(found->numbers, sequence, count), t->units = count;
    return true;
}

/* --- by templates --------------------------------------------------------------------------------------------------- */

/* What a message says of its time, by which its records tell theirs. */
typedef struct {
    uint64_t now, exported; /* Unix milliseconds: when it came, and when it was sent */
    uint32_t uptime;        /* v9: milliseconds */
} moment;

/* A record before it is a row. */
typedef struct {
    row *row;
    const moment *moment;
    uint64_t octets, packets, sport, dport, rate, sampler, icmp[KINDS - ICMP_BOTH4];
    bool has_first, has_last, has_sampler, has_icmp[KINDS - ICMP_BOTH4];
} record;

/* An NTP timestamp as Unix milliseconds; what is before 1970 is 0. */
static uint64_t ntp(const uint8_t *at) {
    uint64_t seconds = big_endian(at, 4), fraction = big_endian(at + 4, 4);
    if (seconds < 2208988800u) return 0;
    return (seconds - 2208988800u) * 1000 + (fraction * 1000000000u >> 32) / 1000000;
}

/* Unix milliseconds of so many microseconds before a message was sent. */
static uint64_t before_export(const moment *m, uint64_t microseconds) {
    return microseconds / 1000 > m->exported ? 0 : m->exported - microseconds / 1000;
}

static void begins(record *to, uint64_t at) {
    to->row->first_ms = at, to->has_first = true;
}

static void ends(record *to, uint64_t at) {
    to->row->last_ms = at, to->has_last = true;
}

/* Whether the field could be put down; numbers of more than eight bytes and interfaces of more than four are left to Python. */
static bool put(record *to, enum kind kind, const uint8_t *at, size_t length) {
    row *row = to->row;
    switch (kind) {
    case SRC4: ip4(row->src, at); row->version = 4; return true;
    case DST4: ip4(row->dst, at); return true;
    case SRC6: memcpy(row->src, at, 16); row->version = 6; return true;
    case DST6: memcpy(row->dst, at, 16); return true;
    case START_NTP: begins(to, ntp(at)); return true;
    case END_NTP: ends(to, ntp(at)); return true;
    default: break;
    }
    if (length > 8) return false;
    uint64_t number = big_endian(at, length);
    switch (kind) {
    case SPORT: to->sport = number; break;
    case DPORT: to->dport = number; break;
    case PROTOCOL: row->protocol = (uint8_t)number; break;
    case TCP_FLAGS: row->tcp_flags = (uint8_t)number; break;
    case TOS: row->tos = (uint8_t)number; break;
    case SEGMENT: row->vni = number & 0xFFFFFF; break;
    case IN_IF: row->in_if = (uint32_t)number; return number <= UINT32_MAX;
    case OUT_IF: row->out_if = (uint32_t)number; return number <= UINT32_MAX;
    case DIRECTION: row->direction = number <= OUT ? (uint8_t)number : UNKNOWN; break;
    case SRC_MAC: row->src_mac = number; break;
    case DST_MAC: row->dst_mac = number; break;
    case OCTETS: to->octets = number; break;
    case PACKETS: to->packets = number; break;
    case START_MS: begins(to, number); break;
    case END_MS: ends(to, number); break;
    case START_S: begins(to, times(number, 1000)); break;
    case END_S: ends(to, times(number, 1000)); break;
    case START_UPTIME: begins(to, since_start(to->moment->exported, to->moment->uptime, number)); break;
    case END_UPTIME: ends(to, since_start(to->moment->exported, to->moment->uptime, number)); break;
    case START_AGO: begins(to, before_export(to->moment, number)); break;
    case END_AGO: ends(to, before_export(to->moment, number)); break;
    case RATE: to->rate = number ? number : 1; break;
    case SAMPLER: to->sampler = number, to->has_sampler = true; break;
    default: to->icmp[kind - ICMP_BOTH4] = number, to->has_icmp[kind - ICMP_BOTH4] = true;
    }
    return true;
}

/* Type and code of ICMP, as NetFlow has them in place of the destination port. */
static uint16_t icmp(const record *of) {
    for (int version = 0; version <= ICMP_BOTH6 - ICMP_BOTH4; version += ICMP_BOTH6 - ICMP_BOTH4) {
        const uint64_t *told = of->icmp + version;
        if (told[0]) return (uint16_t)told[0];
        if (of->has_icmp[version + 1]) return (uint16_t)(told[1] << 8 | told[2]);
    }
    return 0;
}

/* By what the domain's options say to multiply; as Domain.rate of decode/state.py. */
static uint64_t sampled(const stream *s, const record *of) {
    if (of->rate) return of->rate;
    uint64_t any = 0;
    for (uint32_t n = 0; n < s->sampling_count; n++) {
        if (of->has_sampler && s->samplings[n].sampler == of->sampler) return s->samplings[n].rate;
        if (s->samplings[n].sampler == 0) any = s->samplings[n].rate;
    }
    return any ? any : s->sampling_count == 1 ? s->samplings[0].rate : 1;
}

static bool one_record(collector *c, const exporter *from, const stream *s, const template *t, reader *r, const moment *m) {
    record made = {.row = pend(c), .moment = m, .packets = t->one_packet};
    if (!made.row) return false;
    row *row = made.row;
    row->exporter = from->number, row->direction = UNKNOWN, row->vni = NO_VNI;
    for (uint32_t n = 0; n < t->count; n++) {
        size_t length = t->fields[n].length;
        if (length == VARIABLE) {
            length = u8(r);
            if (length == 255) length = u16(r);
        }
        const uint8_t *at = take(r, length);
        if (!at || (t->fields[n].kind != SKIP && !put(&made, t->fields[n].kind, at, length))) return false;
    }
    if (!made.sport && !made.dport) made.dport = icmp(&made);
    row->sport = (uint16_t)made.sport, row->dport = (uint16_t)made.dport;
    uint64_t rate = sampled(s, &made);
    row->bytes = times(made.octets, rate), row->packets = times(made.packets, rate);
    row->rate = rate > UINT32_MAX ? UINT32_MAX : (uint32_t)rate;
    if (!made.has_first) row->first_ms = m->now;
    if (!made.has_last) row->last_ms = m->now;
    return true;
}

static const template *template_of(const stream *s, uint16_t id) {
    uint32_t low = 0, high = s->template_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (s->templates[middle].id == id) return &s->templates[middle];
        if (s->templates[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* The records of all sets; false when one of them is anything but data of a template that is known. */
static bool sets(collector *c, const exporter *from, const stream *s, reader *r, const moment *m, uint32_t *count) {
    while (left(r) >= 4) {
        uint16_t id = u16(r), length = u16(r);
        if (length < 4) return false;
        reader set = part(r, length - 4u);
        const template *t = r->cut ? NULL : template_of(s, id);
        if (!t) return false;
        for (; left(&set) >= t->least; (*count)++)
            if (!one_record(c, from, s, t, &set, m)) return false;
    }
    return true;
}

bool novanet_netflow_v9(collector *c, const exporter *from, reader r, uint64_t now, told *t) {
    skip(&r, 4);
    moment m = {.now = now, .uptime = u32(&r)};
    m.exported = (uint64_t)u32(&r) * 1000;
    t->sequence = u32(&r), t->domain = u32(&r), t->units = 1;
    t->stream = novanet_stream(c, from->number, V9, t->domain);
    uint32_t count = 0;
    return !r.cut && t->stream && sets(c, from, t->stream, &r, &m, &count);
}

bool novanet_ipfix(collector *c, const exporter *from, reader r, uint64_t now, told *t) {
    const uint8_t *start = r.at;
    skip(&r, 2);
    size_t length = u16(&r);
    moment m = {.now = now, .exported = (uint64_t)u32(&r) * 1000};
    t->sequence = u32(&r), t->domain = u32(&r), t->units = 0;
    t->stream = novanet_stream(c, from->number, IPFIX, t->domain);
    if (r.cut || !t->stream || length > (size_t)(r.end - start) || length < (size_t)(r.at - start)) return false;
    r.end = start + length;
    return sets(c, from, t->stream, &r, &m, &t->units);
}
