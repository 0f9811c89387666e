/* Bytes of a datagram, read from left to right and never beyond their end. Once there were too few, everything reads as zero. */
#ifndef NOVANET_BYTES_H
#define NOVANET_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *at, *end;
    bool cut; /* there were fewer bytes than wanted */
} reader;

static inline size_t left(const reader *r) {
    return r->cut ? 0 : (size_t)(r->end - r->at);
}

/* The next bytes; NULL when there are too few. */
static inline const uint8_t *take(reader *r, size_t size) {
    if (r->cut || size > (size_t)(r->end - r->at)) {
        r->cut = true;
        return NULL;
    }
    const uint8_t *found = r->at;
    r->at += size;
    return found;
}

static inline bool skip(reader *r, size_t size) {
    return take(r, size) != NULL;
}

/* The next bytes as a part of their own, which has none when there are too few. */
static inline reader part(reader *r, size_t size) {
    const uint8_t *found = take(r, size);
    return found ? (reader){found, found + size, false} : (reader){r->end, r->end, true};
}

static inline uint64_t big_endian(const uint8_t *at, size_t size) {
    uint64_t number = 0;
    for (size_t n = 0; n < size; n++) number = number << 8 | at[n];
    return number;
}

static inline uint8_t u8(reader *r) {
    const uint8_t *at = take(r, 1);
    return at ? *at : 0;
}

static inline uint16_t u16(reader *r) {
    const uint8_t *at = take(r, 2);
    return at ? (uint16_t)(at[0] << 8 | at[1]) : 0;
}

static inline uint32_t u32(reader *r) {
    const uint8_t *at = take(r, 4);
    uint32_t word;
    if (!at) return 0;
    memcpy(&word, at, 4);
    return __builtin_bswap32(word);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "u32 and rows are written for little-endian machines; the plain Python collector runs on others"
#endif

#endif
