/* Lanes of vectors: the first `count` of them, to and from any address; elements past them are neither read nor
 * written, and are zero when loaded.  Lanes lo .. hi-1 of a vector to where lane 0 would lie.  Every other lane of two
 * vectors, and the lanes of two vectors in turn, from lane `first` on.  Every second of 2*lanes - 1 neighbours, of
 * which two vectors hold the first and the last.  The first half of one vector and the second of another.
 */
#if defined(__clang__)
#define SHUFFLE_LANES(to, a, b, lanes, index)                                                                          \
    UNROLL for (int j = 0; j < (lanes); j++) to[j] = (index) < (lanes) ? a[(index)] : b[(index) - (lanes)];
#else
#define SHUFFLE_LANES(to, a, b, lanes, index)                                                                          \
    UNROLL for (int j = 0; j < (lanes); j++) from[j] = (index);                                                        \
    to = __builtin_shuffle(a, b, from);
#endif
/* Of vectors 0, 1, ...: every m-th element from `first` on, and elements of m of them in turns, the k-th vector of
 * those. s = 0 takes what vectors 0 and 1 have of it, s >= 2 adds what vector s has.
 */
#define CHOSEN(j, m, first, s, lanes)                                                                                  \
    ((s) == 0                                 ? ((j) * (m) + (first)) % (2 * (lanes))                                  \
     : ((j) * (m) + (first)) / (lanes) == (s) ? (lanes) + ((j) * (m) + (first)) % (lanes)                              \
                                              : (j))
#define IN_TURNS(at, j, m, s, lanes)                                                                                   \
    ((s) == 0 ? (at) / (m) + ((at) % (m) == 1 ? (lanes) : 0) : (at) % (m) == (s) ? (lanes) + (at) / (m) : (j))
#define SHUFFLES_OF(type)                                                                                              \
    static inline __attribute__((always_inline)) type##_vector type##_every(type##_vector a, type##_vector b,          \
                                                                            int first) {                               \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, 2 * j + first)                                                                  \
        return to;                                                                                                     \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) type##_vector type##_every_second(type##_vector a, type##_vector b) { \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, 2 * j + (2 * j >= LANES))                                                       \
        return to;                                                                                                     \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) type##_vector type##_in_turn(type##_vector a, type##_vector b,        \
                                                                              int first) {                             \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, first + j / 2 + j % 2 * LANES)                                                  \
        return to;                                                                                                     \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) type##_vector type##_halves(type##_vector a, type##_vector b) {       \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, j < LANES / 2 ? j : LANES + j)                                                  \
        return to;                                                                                                     \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) type##_vector type##_chosen(                                          \
        type##_vector a, type##_vector b, const int m, const int first, const int s) {                                 \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, CHOSEN(j, m, first, s, LANES))                                                  \
        return to;                                                                                                     \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) type##_vector type##_in_turns(                                        \
        type##_vector a, type##_vector b, const int m, const int k, const int s) {                                     \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_vector to;                                                                                              \
        __attribute__((unused)) type##_mask from;                                                                      \
        SHUFFLE_LANES(to, a, b, LANES, IN_TURNS(k * LANES + j, j, m, s, LANES))                                        \
        return to;                                                                                                     \
    }
SHUFFLES_OF(f32)
SHUFFLES_OF(f64)
SHUFFLES_OF(i64)

#if defined(HAS_LANE_MASKS)
#define INTRINSIC(name) _mm512_##name
#define VECTOR_TYPE(suffix) __m512##suffix
/* The first `count` bits of as many as there are lanes. */
#define LANES_UNTIL(count, lanes) ((count) < (lanes) ? (1u << (count)) - 1 : 0xffffu >> (16 - (lanes)))
#define LANES_OF(type, mask, load, store, suffix)                                                                      \
    static inline type##_vector type##_load_lanes(const type *from, index_t count) {                                   \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        return (type##_vector)INTRINSIC(load)((mask)LANES_UNTIL(count, LANES), from);                                  \
    }                                                                                                                  \
    static inline void type##_store_lanes(type *to, type##_vector value, index_t count) {                              \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        INTRINSIC(store)(to, (mask)LANES_UNTIL(count, LANES), (VECTOR_TYPE(suffix))value);                             \
    }                                                                                                                  \
    static inline void type##_store_between(type *to, type##_vector value, index_t lo, index_t hi) {                   \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        INTRINSIC(store)(to, (mask)(LANES_UNTIL(hi, LANES) & ~LANES_UNTIL(lo, LANES)), (VECTOR_TYPE(suffix))value);    \
    }
LANES_OF(f32, __mmask16, maskz_loadu_ps, mask_storeu_ps, )
LANES_OF(f64, __mmask8, maskz_loadu_pd, mask_storeu_pd, d)
LANES_OF(i64, __mmask8, maskz_loadu_epi64, mask_storeu_epi64, i)
#elif defined(HAS_MASKED_LOADS)
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#define LANES_32(count) _mm256_loadu_si256((const __m256i *)(lane_masks + ((count) < 8 ? 8 - (count) : 0)))
#define LANES_64(count) _mm256_loadu_si256((const __m256i *)(lane_masks + ((count) < 4 ? 8 - 2 * (count) : 0)))
static inline f32_vector f32_load_lanes(const f32 *from, index_t count) {
    return (f32_vector)_mm256_maskload_ps(from, LANES_32(count));
}
static inline f64_vector f64_load_lanes(const f64 *from, index_t count) {
    return (f64_vector)_mm256_maskload_pd(from, LANES_64(count));
}
static inline i64_vector i64_load_lanes(const i64 *from, index_t count) {
    return (i64_vector)_mm256_maskload_epi64((const long long *)from, LANES_64(count));
}
/* Stores are in pieces, from the first lane that is wanted on: AMD's processors before Zen 4 take 15 to 20 cycles for a
 * masked one, a few for all the pieces of a vector. */
static const int32_t lane_numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7};
static inline void f32_store_lanes(f32 *to, f32_vector value, index_t count) {
    if (count >= 8) {
        *(f32_vector *)to = value;
        return;
    }
    __m128 lanes = _mm256_castps256_ps128((__m256)value);
    if (count & 4) {
        _mm_storeu_ps(to, lanes);
        lanes = _mm256_extractf128_ps((__m256)value, 1), to += 4;
    }
    if (count & 2) {
        _mm_storel_pi((__m64 *)to, lanes);
        lanes = _mm_movehl_ps(lanes, lanes), to += 2;
    }
    if (count & 1) _mm_store_ss(to, lanes);
}
static inline void f64_store_lanes(f64 *to, f64_vector value, index_t count) {
    f32_store_lanes((f32 *)to, (f32_vector)value, 2 * count);
}
static inline void i64_store_lanes(i64 *to, i64_vector value, index_t count) {
    f32_store_lanes((f32 *)to, (f32_vector)value, 2 * count);
}
static inline void f32_store_between(f32 *to, f32_vector value, index_t lo, index_t hi) {
    const __m256i from = _mm256_loadu_si256((const __m256i *)(lane_numbers + (lo < 8 ? lo : 8)));
    if (lo < hi) f32_store_lanes(to + lo, (f32_vector)_mm256_permutevar8x32_ps((__m256)value, from), hi - lo);
}
static inline void f64_store_between(f64 *to, f64_vector value, index_t lo, index_t hi) {
    f32_store_between((f32 *)to, (f32_vector)value, 2 * lo, 2 * hi);
}
static inline void i64_store_between(i64 *to, i64_vector value, index_t lo, index_t hi) {
    f32_store_between((f32 *)to, (f32_vector)value, 2 * lo, 2 * hi);
}
#else
#define LANES_OF(type)                                                                                                 \
    static inline type##_vector type##_load_lanes(const type *from, index_t count) {                                   \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        if (count >= LANES) return *(const type##_vector *)from;                                                       \
        type##_vector value = {0};                                                                                     \
        for (index_t j = 0; j < count; j++) value[j] = from[j];                                                        \
        return value;                                                                                                  \
    }                                                                                                                  \
    static inline void type##_store_lanes(type *to, type##_vector value, index_t count) {                              \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        if (count >= LANES) *(type##_vector *)to = value;                                                              \
        else                                                                                                           \
            for (index_t j = 0; j < count; j++) to[j] = value[j];                                                      \
    }                                                                                                                  \
    static inline void type##_store_between(type *to, type##_vector value, index_t lo, index_t hi) {                   \
        for (index_t j = lo; j < hi; j++) to[j] = value[j];                                                            \
    }
LANES_OF(f32)
LANES_OF(f64)
LANES_OF(i64)
#endif

/* A set of lanes: those first .. last-1, as far as there are any.  Loads of a set touch no other element; other
 * lanes are zero when loaded, or when only those of a set are wanted.  HAS_SETS where vectors are loaded so.  A set in
 * the first half of a vector can be loaded from two addresses into both halves.  A part is the same for stores.
 */
#if defined(HAS_LANE_MASKS) || defined(HAS_MASKED_LOADS)
#define HAS_SETS
#endif
#if defined(HAS_LANE_MASKS)
#define SETS_OF(type, mask, load, only, store, suffix)                                                                 \
    typedef mask type##_set;                                                                                           \
    static inline type##_set type##_set_of(index_t first, index_t last) {                                              \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        return (type##_set)(last <= 0    ? 0                                                                           \
                            : first <= 0 ? LANES_UNTIL(last, LANES)                                                    \
                                         : LANES_UNTIL(last, LANES) & ~LANES_UNTIL(first, LANES));                     \
    }                                                                                                                  \
    static inline type##_vector type##_load_set(const type *from, type##_set set) {                                    \
        return (type##_vector)INTRINSIC(load)(set, from);                                                              \
    }                                                                                                                  \
    static inline type##_vector type##_of_set(type##_vector value, type##_set set) {                                   \
        return (type##_vector)INTRINSIC(only)(set, (VECTOR_TYPE(suffix))value);                                        \
    }                                                                                                                  \
    typedef mask type##_part;                                                                                          \
    static inline type##_part type##_part_of(index_t first, index_t last) { return type##_set_of(first, last); }       \
    static inline void type##_store_part(type *to, type##_vector value, type##_part part) {                            \
        INTRINSIC(store)(to, part, (VECTOR_TYPE(suffix))value);                                                        \
    }
SETS_OF(f32, __mmask16, maskz_loadu_ps, maskz_mov_ps, mask_storeu_ps, )
SETS_OF(f64, __mmask8, maskz_loadu_pd, maskz_mov_pd, mask_storeu_pd, d)
static inline f32_vector f32_load_halves(const f32 *low, const f32 *high, f32_set set) {
    const __m512 first = _mm512_castps256_ps512(_mm256_maskz_loadu_ps((__mmask8)set, low));
    return (f32_vector)_mm512_insertf32x8(first, _mm256_maskz_loadu_ps((__mmask8)set, high), 1);
}
static inline f64_vector f64_load_halves(const f64 *low, const f64 *high, f64_set set) {
    const __m512d first = _mm512_castpd256_pd512(_mm256_maskz_loadu_pd(set, low));
    return (f64_vector)_mm512_insertf64x4(first, _mm256_maskz_loadu_pd(set, high), 1);
}
#elif defined(HAS_MASKED_LOADS)
#define SETS_OF(type, load)                                                                                            \
    typedef type##_mask type##_set;                                                                                    \
    static inline type##_set type##_set_of(index_t first, index_t last) {                                              \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        type##_set set;                                                                                                \
        for (int j = 0; j < LANES; j++) set[j] = j >= first && j < last ? -1 : 0;                                      \
        return set;                                                                                                    \
    }                                                                                                                  \
    static inline type##_vector type##_load_set(const type *from, type##_set set) {                                    \
        return (type##_vector)load(from, (__m256i)set);                                                                \
    }                                                                                                                  \
    static inline type##_vector type##_of_set(type##_vector value, type##_set set) {                                   \
        return (type##_vector)((type##_mask)value & set);                                                              \
    }                                                                                                                  \
    typedef struct {                                                                                                   \
        index_t first, last;                                                                                           \
    } type##_part;                                                                                                     \
    static inline type##_part type##_part_of(index_t first, index_t last) {                                            \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        return (type##_part){first < 0 ? 0 : first, last < LANES ? last : LANES};                                      \
    }                                                                                                                  \
    static inline void type##_store_part(type *to, type##_vector value, type##_part part) {                            \
        if (part.first == 0) type##_store_lanes(to, value, part.last);                                                 \
        else type##_store_between(to, value, part.first, part.last);                                                   \
    }
SETS_OF(f32, _mm256_maskload_ps)
SETS_OF(f64, _mm256_maskload_pd)
static inline f32_vector f32_load_halves(const f32 *low, const f32 *high, f32_set set) {
    const __m128i half = _mm256_castsi256_si128((__m256i)set);
    const __m256 first = _mm256_castps128_ps256(_mm_maskload_ps(low, half));
    return (f32_vector)_mm256_insertf128_ps(first, _mm_maskload_ps(high, half), 1);
}
static inline f64_vector f64_load_halves(const f64 *low, const f64 *high, f64_set set) {
    const __m128i half = _mm256_castsi256_si128((__m256i)set);
    const __m256d first = _mm256_castpd128_pd256(_mm_maskload_pd(low, half));
    return (f64_vector)_mm256_insertf128_pd(first, _mm_maskload_pd(high, half), 1);
}
#endif
