/* Datagrams of sFlow, NetFlow and IPFIX, as fast as they come: what is usual in them is added up here, and a datagram in which anything is
 * not, is left whole to the Python decoder (../worker.py), so that nothing counts twice and the unusual is written down once. */
#ifndef NOVANET_COLLECTOR_H
#define NOVANET_COLLECTOR_H

#include "table.h"

enum { SFLOW = 1 << 16, V5 = 5, V9 = 9, IPFIX = 10 }; /* versions, as decode/datagrams.py numbers them */

/* Sequence numbers of a domain, which the Python decoder counts in the same place: decode/state.py. */
typedef struct {
    uint64_t received, lost;
    uint32_t expected, before, units;
    uint8_t known, has_before, numbers_last;
} numbers;

/* What a field of a template is to a flow: fast.py makes these from templates. */
enum kind {
    SKIP, SRC4, DST4, SRC6, DST6, SPORT, DPORT, PROTOCOL, TCP_FLAGS, TOS, SEGMENT, IN_IF, OUT_IF, DIRECTION, SRC_MAC, DST_MAC, OCTETS,
    PACKETS, START_MS, END_MS, START_S, END_S, START_NTP, END_NTP, START_UPTIME, END_UPTIME, START_AGO, END_AGO, RATE, SAMPLER,
    ICMP_BOTH4, ICMP_TYPE4, ICMP_CODE4, ICMP_BOTH6, ICMP_TYPE6, ICMP_CODE6, KINDS
};

typedef struct {
    uint16_t kind, length; /* VARIABLE: the field says it itself */
} field;
enum { VARIABLE = 0xFFFF };

typedef struct {
    uint16_t id, least, count, one_packet; /* least: bytes of a record at least; one_packet: it has no count of packets, and is one */
    const field *fields;
} template;

typedef struct {
    uint64_t sampler;
    uint32_t rate;
    uint32_t filler;
} sampling;

typedef struct stream {
    struct stream *next; /* in its bucket */
    uint32_t exporter, version, domain;
    numbers *numbers;
    template *templates; /* by id, ascending */
    sampling *samplings;
    uint32_t template_count, sampling_count;
} stream;

typedef struct {
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint32_t number;
    uint64_t kernel, refused; /* datagrams that the kernel dropped, records that found no room */
    uint32_t used;
} exporter;

enum { EXPORTERS = 8192, STREAMS = 1 << 16, PENDING = 3000 };

struct inbox;

typedef struct {
    table flows;
    exporter *exporters; /* open addressing, EXPORTERS of them */
    uint32_t exporter_count;
    stream **streams;
    row pending[PENDING]; /* of the datagram that is being read: added up when all of it is good */
    uint32_t pending_count;
    uint64_t taken; /* datagrams */
    struct inbox *inbox;
} collector;

/* The decoders: whether the whole datagram was understood. Its rows are pending then, with the domain and the numbers for the sequence. */
typedef struct {
    uint32_t domain, sequence, units;
    stream *stream;
} told;

bool novanet_sflow(collector *c, const exporter *from, reader r, uint64_t now, told *t);
bool novanet_netflow_v5(collector *c, const exporter *from, reader r, uint64_t now, told *t);
bool novanet_netflow_v9(collector *c, const exporter *from, reader r, uint64_t now, told *t);
bool novanet_ipfix(collector *c, const exporter *from, reader r, uint64_t now, told *t);

stream *novanet_stream(const collector *c, uint32_t exporter, uint32_t version, uint32_t domain);

/* Room for another row of the datagram, cleared; NULL when it has too many. */
static inline row *pend(collector *c) {
    if (c->pending_count == PENDING) return NULL;
    row *found = &c->pending[c->pending_count++];
    memset(found, 0, sizeof *found);
    found->samples = 1;
    return found;
}

static inline uint64_t times(uint64_t a, uint64_t b) {
    uint64_t found;
    return __builtin_mul_overflow(a, b, &found) ? UINT64_MAX : found;
}

#endif
