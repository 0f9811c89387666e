/* The collector as Python sees it: exporters and domains that it is told of, datagrams from sockets, rows out. */
#define _GNU_SOURCE
#include "collector.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef SO_RXQ_OVFL
#define SO_RXQ_OVFL 40
#endif

enum { BATCH = 64, LARGEST = 65536, REORDERED = 64 };
enum { STRIDE = LARGEST + 17 * 64 }; /* between two datagrams; a power of two would have all of them in the same lines of the caches */

/* Datagrams that have been received at once, of which some are yet to be read. */
struct inbox {
    uint8_t data[BATCH][STRIDE];
    struct sockaddr_in6 senders[BATCH];
    union {
        struct cmsghdr align;
        uint8_t room[CMSG_SPACE(sizeof(uint32_t))];
    } controls[BATCH];
    struct iovec vectors[BATCH];
    struct mmsghdr messages[BATCH];
    int count, at;
};

/* A datagram that is left to Python. */
typedef struct {
    const uint8_t *data;
    uint64_t length;
    uint8_t address[16];
    uint64_t dropped; /* datagrams that the kernel dropped before this one, since the last that told; of an exporter that is not known */
} remaining;

/* --- what is known ------------------------------------------------------------------------------------------------------ */

void novanet_collector_free(collector *c);
void novanet_collector_forget(collector *c);

collector *novanet_collector_make(uint32_t most, uint64_t seed) {
    collector *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->exporters = calloc(EXPORTERS, sizeof *c->exporters);
    c->streams = calloc(STREAMS, sizeof *c->streams);
    c->inbox = malloc(sizeof *c->inbox);
    if (!c->exporters || !c->streams || !c->inbox || !novanet_table_make(&c->flows, most, seed)) {
        novanet_collector_free(c);
        return NULL;
    }
    c->inbox->count = c->inbox->at = 0;
    return c;
}

void novanet_collector_free(collector *c) {
    if (c->streams) novanet_collector_forget(c);
    novanet_table_free(&c->flows);
    free(c->exporters);
    free(c->streams);
    free(c->inbox);
    free(c);
}

static uint32_t spread(uint64_t seed, const void *key, size_t size) {
    uint64_t state = seed;
    for (size_t at = 0; at < size; at += 4) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)key + at, 4);
        state = (state ^ word) * 0x9E3779B97F4A7C15u;
        state ^= state >> 32;
    }
    return (uint32_t)state;
}

static exporter *place(const collector *c, const uint8_t *address) {
    uint32_t at = spread(c->flows.seed, address, 16) % EXPORTERS;
    while (c->exporters[at].used && memcmp(c->exporters[at].address, address, 16)) at = (at + 1) % EXPORTERS;
    return &c->exporters[at];
}

/* Makes an exporter known, whose datagrams may be taken; false when there are too many. */
bool novanet_collector_exporter(collector *c, const uint8_t *address, uint32_t number) {
    exporter *found = place(c, address);
    if (!found->used) {
        if (c->exporter_count >= EXPORTERS / 2) return false;
        c->exporter_count++;
        memcpy(found->address, address, 16);
        found->used = 1;
    }
    found->number = number;
    return true;
}

/* Datagrams of this exporter that the kernel has dropped, and records that found no room. */
void novanet_collector_losses(const collector *c, const uint8_t *address, uint64_t *losses) {
    const exporter *found = place(c, address);
    losses[0] = found->kernel, losses[1] = found->refused;
}

static stream **bucket(const collector *c, uint32_t exporter, uint32_t version, uint32_t domain) {
    uint32_t key[3] = {exporter, version, domain};
    stream **found = &c->streams[spread(c->flows.seed, key, sizeof key) % STREAMS];
    while (*found && ((*found)->exporter != exporter || (*found)->version != version || (*found)->domain != domain)) found = &(*found)->next;
    return found;
}

stream *novanet_stream(const collector *c, uint32_t exporter, uint32_t version, uint32_t domain) {
    return *bucket(c, exporter, version, domain);
}

static void free_stream(stream *s) {
    free(s->templates);
    free(s->samplings);
    free(s);
}

/* Makes a domain known, or known anew. `numbers` and the fields of templates must outlive it; the rest is copied. */
bool novanet_collector_stream(
    collector *c, uint32_t exporter, uint32_t version, uint32_t domain, numbers *numbers, const template *templates, uint32_t template_count,
    const sampling *samplings, uint32_t sampling_count) {
    stream *made = calloc(1, sizeof *made), **at = bucket(c, exporter, version, domain);
    if (!made) return false;
    *made = (stream){
        .exporter = exporter, .version = version, .domain = domain, .numbers = numbers,
        .templates = malloc((template_count + 1) * sizeof *templates), .samplings = malloc((sampling_count + 1) * sizeof *samplings),
        .template_count = template_count, .sampling_count = sampling_count,
    };
    if (!made->templates || !made->samplings) {
        free_stream(made);
        return false;
    }
    memcpy(made->templates, templates, template_count * sizeof *templates);
    memcpy(made->samplings, samplings, sampling_count * sizeof *samplings);
    if (*at) {
        stream *old = *at;
        made->next = old->next;
        free_stream(old);
    }
    *at = made;
    return true;
}

/* Forgets all domains, and whose datagrams may be taken; what was lost stays. */
void novanet_collector_forget(collector *c) {
    for (uint32_t n = 0; n < STREAMS; n++) {
        while (c->streams[n]) {
            stream *gone = c->streams[n];
            c->streams[n] = gone->next;
            free_stream(gone);
        }
    }
    memset(c->exporters, 0, EXPORTERS * sizeof *c->exporters);
    c->exporter_count = 0;
}

/* --- datagrams ---------------------------------------------------------------------------------------------------------- */

/* As Domain.count of decode/state.py. */
static void count(numbers *n, uint32_t sequence, uint32_t units) {
    n->received++;
    uint32_t ahead = sequence - n->expected;
    if (n->known && ahead) {
        if (ahead < 1u << 31) {
            n->lost += ahead;
        } else if (0u - ahead <= (uint64_t)REORDERED * (units ? units : 1)) {
            n->lost = n->lost > units ? n->lost - units : 0; /* counted as lost before */
            return;
        }
    }
    n->expected = sequence + units;
    n->known = 1;
}

static bool decode(collector *c, const exporter *from, reader r, uint64_t now, told *t) {
    if (left(&r) < 4) return false;
    uint32_t version = r.at[0] == 0 && r.at[1] == 0 && r.at[2] == 0 && r.at[3] == 5 ? SFLOW : (uint32_t)(r.at[0] << 8 | r.at[1]);
    switch (version) {
    case SFLOW:
        if (!novanet_sflow(c, from, r, now, t)) return false;
        t->stream = novanet_stream(c, from->number, SFLOW, t->domain);
        return t->stream != NULL;
    case V5: return novanet_netflow_v5(c, from, r, now, t);
    case V9: return novanet_netflow_v9(c, from, r, now, t);
    case IPFIX: return novanet_ipfix(c, from, r, now, t);
    }
    return false;
}

static bool take_from(collector *c, exporter *from, const uint8_t *data, size_t length, uint64_t now) {
    told t = {0};
    c->pending_count = 0;
    if (!decode(c, from, (reader){data, data + length, false}, now, &t)) return false;
    count(t.stream->numbers, t.sequence, t.units);
    for (uint32_t n = 0; n < c->pending_count; n++) from->refused += !novanet_table_add(&c->flows, &c->pending[n]);
    c->taken++;
    return true;
}

/* Takes a datagram, received at `now` in Unix milliseconds; false, and nothing has happened, when it is to be read by Python. */
bool novanet_collector_take(collector *c, const uint8_t *address, const uint8_t *data, uint64_t length, uint64_t now) {
    exporter *from = place(c, address);
    return from->used && take_from(c, from, data, length, now);
}

static void address_of(const struct sockaddr_in6 *sender, uint8_t *address) {
    if (sender->sin6_family == AF_INET6) {
        memcpy(address, &sender->sin6_addr, 16);
        return;
    }
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    memcpy(address, mapped, 12);
    memcpy(address + 12, &((const struct sockaddr_in *)sender)->sin_addr, 4);
}

/* By how many datagrams the socket has lost more than it had when it told last. */
static uint32_t newly_dropped(struct msghdr *message, uint32_t *dropped) {
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SO_RXQ_OVFL) continue;
        uint32_t told, before = *dropped;
        memcpy(&told, CMSG_DATA(each), sizeof told);
        *dropped = told;
        return told - before;
    }
    return 0;
}

static int receive(struct inbox *in, int socket) {
    for (int n = 0; n < BATCH; n++) {
        in->vectors[n] = (struct iovec){in->data[n], LARGEST};
        in->messages[n].msg_hdr = (struct msghdr){
            .msg_name = &in->senders[n], .msg_namelen = sizeof in->senders[n], .msg_iov = &in->vectors[n], .msg_iovlen = 1,
            .msg_control = &in->controls[n], .msg_controllen = sizeof in->controls[n],
        };
    }
    in->at = 0;
    do in->count = recvmmsg(socket, in->messages, BATCH, MSG_DONTWAIT, NULL);
    while (in->count < 0 && errno == EINTR);
    if (in->count < 0) in->count = 0;
    return in->count;
}

/* Takes what has come at a socket, `most` datagrams and the rest of a batch. True when it came upon one that is to be read by Python, which is
 * to happen before this is called again for the same socket; `dropped` is the socket's and begins as 0. */
bool novanet_collector_receive(collector *c, int socket, uint32_t *dropped, uint64_t now, uint32_t most, remaining *out) {
    struct inbox *in = c->inbox;
    uint32_t seen = 0;
    for (;;) {
        if (in->at == in->count && (seen >= most || !receive(in, socket))) return false;
        int n = in->at++;
        seen++;
        uint64_t length = in->messages[n].msg_len;
        uint32_t more = newly_dropped(&in->messages[n].msg_hdr, dropped);
        uint8_t address[16];
        address_of(&in->senders[n], address);
        exporter *from = place(c, address);
        if (from->used) {
            from->kernel += more;
            if (take_from(c, from, in->data[n], length, now)) continue;
            more = 0;
        }
        out->data = in->data[n], out->length = length, out->dropped = more;
        memcpy(out->address, address, 16);
        return true;
    }
}

/* --- rows --------------------------------------------------------------------------------------------------------------- */

uint32_t novanet_collector_rows(const collector *c) {
    return c->flows.count;
}

uint64_t novanet_collector_taken(const collector *c) {
    return c->taken;
}

void novanet_collector_drain(collector *c, row *rows) {
    novanet_table_drain(&c->flows, rows);
}
